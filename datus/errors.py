"""Everything that can go wrong, as one tree.

DatusError                what a user can see without a traceback; the message holds the cure
├── UsageError            wrong command line, config or class table      (exit code 2)
│   └── ConfigError       a setting is unknown, of the wrong type or out of range
└── WorkError             the work could not be done                     (exit code 1)
    ├── ImageError        one image cannot be used; recorded, the others go on
    ├── BackboneError     a model or its weights cannot be loaded
    ├── ClusterError      k-means cannot do what is asked
    ├── MissingPackage    an optional package is not installed; names the command
    ├── StoreError        the run folder cannot be read, written or locked
    │   └── CorruptShard  a stored shard does not match its checksum; it is made again
    └── TooManyFailures   more images failed than `max_failed` allows
"""

INTERRUPTED = "interrupted: the same command goes on where it stopped"
"""What people are told after Ctrl-C; exit code 130."""


class DatusError(Exception):
    """Base of all errors that a user can cause or cure."""

    exit_code = 1


class UsageError(DatusError):
    """The command, a config file or a class table is wrong."""

    exit_code = 2


class ConfigError(UsageError):
    """A setting is unknown, of the wrong type or out of range."""


class WorkError(DatusError):
    """The command was right but the work could not be done."""


class ImageError(WorkError):
    """One image cannot be used. The message is the recorded reason."""


class BackboneError(WorkError):
    """A model or its weights cannot be loaded."""


class ClusterError(WorkError):
    """k-means cannot do what is asked of it."""


class MissingPackage(WorkError):
    """An optional package is not installed. The message names the command that installs it."""


class StoreError(WorkError):
    """The run folder cannot be read, written or locked."""


class CorruptShard(StoreError):
    """A stored shard does not match the checksum in its report."""


class TooManyFailures(WorkError):
    """More images failed than `max_failed` allows."""


def size_text(n_bytes: int) -> str:
    """Bytes for people: 433370258 -> '433.4 MB'."""
    size, units = float(n_bytes), ("B", "KB", "MB", "GB")
    for unit in units:
        if size < 1000:
            return f"{size:.1f} {unit}" if unit != "B" else f"{n_bytes} B"
        size /= 1000
    return f"{size:.1f} TB"
