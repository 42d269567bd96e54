"""`python -m labeldist`: the command line."""

import sys

if __name__ == "__main__":
    try:
        from labeldist.cli import main

        code = main()
    except KeyboardInterrupt:
        # Before the command line was there to say so itself.
        print("\nlabeldist: interrupted.", file=sys.stderr)
        code = 130
    sys.exit(code)
