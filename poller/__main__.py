"""`python -m poller` is `poller`."""

from poller.cli import main

if __name__ == "__main__":
    main()
