"""What Lambda says about an invocation that did not answer, word for word (texts recorded on AWS)."""

from __future__ import annotations

import signal

from poller.model import Fault, FaultKind


def timed_out(request_id: str, timeout: float) -> Fault:
    return Fault("timeout", "Sandbox.Timedout", f"RequestId: {request_id} Error: Task timed out after {timeout:.2f} seconds")


def exited(request_id: str, status: int, kind: FaultKind = "exit") -> Fault:
    """`status` is subprocess's return code: negative for a signal."""
    return Fault(kind, "Runtime.ExitError", f"RequestId: {request_id} Error: {_reason(status)}")


def out_of_memory(request_id: str) -> Fault:
    return Fault("memory", "Runtime.OutOfMemory", f"RequestId: {request_id} Error: {_reason(-signal.SIGKILL)}")


def init_timed_out(request_id: str, limit: float) -> Fault:
    return Fault("init", "Sandbox.Timedout", f"RequestId: {request_id} Error: Init timed out after {limit:.2f} seconds")


def _reason(status: int) -> str:
    if status == 0:
        return "Runtime exited without providing a reason"
    if status > 0:
        return f"Runtime exited with error: exit status {status}"
    name = signal.strsignal(-status) or f"signal {-status}"
    return f"Runtime exited with error: signal: {name.lower()}"
