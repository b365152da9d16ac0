"""notifier - announces the epoch files that lie in the folders already, oldest epoch first."""

from collections.abc import Iterable
from pathlib import Path

from kme.clock import Clock
from kme.epochs.notify import Notice, send
from kme.errors import InputError
from kme.ids import Epoch, KmeId, SourceId
from kme.ingest.folders import epoch_names, universal


def find_notices(root: Path, links: Iterable[tuple[KmeId, SourceId]], clock: Clock) -> list[Notice]:
    """Return what there is to announce.

    Parameters
    ----------
    root
        Folder of the folders ``peer/source``; an absent one holds no file.
    links
        Peers and sources.
    clock
        Tells which universal epoch a local one stands for.

    Raises
    ------
    InputError
        If a folder cannot be read.
    """
    notices = [
        Notice(peer, source, Epoch.from_file_name(name))
        for peer, source in links
        for name in _names(root / peer / source)
    ]
    return sorted(notices, key=lambda notice: universal(notice.epoch, clock))


def announce(
    fifo: Path, root: Path, links: Iterable[tuple[KmeId, SourceId]], clock: Clock, wait_s: float
) -> int:
    """Announce all files and return how many there were; nobody is disturbed for none.

    Raises
    ------
    InputError
        If a folder cannot be read.
    UnavailableError
        If no watcher listens within `wait_s`.
    """
    notices = find_notices(root, links, clock)
    if notices:
        send(fifo, notices, wait_s)
    return len(notices)


def _names(folder: Path) -> set[str]:
    try:
        return epoch_names(folder)
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror}") from error
