"""What a play compares is shown when it differs, as in a test."""

import pytest

pytest.register_assert_rewrite("tests.fidelity.played_queues")
