"""Whether the framework of an integration is installed, and recent enough."""

from importlib import metadata
from types import TracebackType


class imports_of:  # noqa: N801  (a context manager, used as a function)
    """Imports of a framework go inside: what is missing is named, with the command that installs it.

    Args:
        package: the framework, by the name that pip knows it by.
        minimum: the oldest version that the integration was tested with.
        module: the integration, for the message.
        extra: the extra of labeldist that installs the framework.

    Raises:
        ImportError: if an import fails or the framework is older.

    Examples:
        >>> with imports_of("torch", minimum="2.0", module="example", extra="train"):
        ...     import torch
    """

    def __init__(self, package: str, *, minimum: str, module: str, extra: str):
        self._package = package
        self._minimum = minimum
        self._module = module
        self._extra = extra

    def __enter__(self) -> None:
        try:
            from packaging.version import Version

            installed = metadata.version(self._package)
        except ImportError as error:
            raise self._missing() from error
        if Version(installed) < Version(self._minimum):
            raise ImportError(
                f"{self._module} needs {self._package} >= {self._minimum}, got {installed}. Upgrade it with: pip "
                f"install -U 'labeldist[{self._extra}]'"
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, ImportError):
            raise self._missing() from error

    def _missing(self) -> ImportError:
        return ImportError(
            f"{self._module} needs {self._package}. Install it with: pip install 'labeldist[{self._extra}]'"
        )
