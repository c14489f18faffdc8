"""`python -m datus`, and the `datus` command."""

from datus.cli import app


def main() -> None:
    app()


if __name__ == "__main__":
    main()
