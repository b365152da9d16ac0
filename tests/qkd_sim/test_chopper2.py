from photon_files import SET_A, at, events, files_of, random_events
from qkd_sim.chopper2 import Packaged, log_line, package
from qkd_sim.epochsplit import SplitRules, split_epochs
from qkd_sim.events import Events
from qkd_sim.packets import Type1

KEEP_LAST = SplitRules(is_last_kept=True)


def packaged(whole: Events, rules: SplitRules = KEEP_LAST) -> list[Packaged]:
    return list(package(split_epochs([whole], rules)))


def test_set_a_is_packaged_byte_for_byte_as_the_c_program_does() -> None:
    found = packaged(Events.read(SET_A / "hec" / "events.raw"), SplitRules())
    names = [each.type1.epoch.file_name for each in found]
    assert names == [path.name for path in files_of(SET_A / "hec" / "t1")]
    for each, name in zip(found, names, strict=True):
        assert each.type1.pack() == (SET_A / "hec" / "t1" / name).read_bytes()
    lines = [log_line(each, 3, 6) for each in found]
    assert lines == (SET_A / "logs" / "chopper2_V3.log").read_text().splitlines()


def test_records_of_all_epochs_together_are_the_stream() -> None:
    whole = random_events(1, 300, 4)
    packets = [Type1.unpack(each.type1.pack(), "1") for each in packaged(whole)]
    assert Events.concatenate(packet.events for packet in packets).pack() == whole.pack()


def test_duplicates_are_kept() -> None:
    whole = events([at(5, 7)] * 3, [1, 1, 2])
    assert packaged(whole)[0].type1.events.pack() == whole.pack()


def test_a_record_that_would_be_read_as_the_end_is_left_out() -> None:
    found = packaged(events([0, 0, at(0, 5), at(1, 0)], [0, 1, 0, 0]))
    assert [len(each.type1.events) for each in found] == [2, 1]
    assert [each.n_ignored for each in found] == [1, 0]
    assert packaged(events([0, 0], 0)) == []


def test_an_empty_stream_gives_no_packets() -> None:
    assert packaged(Events.empty()) == []


def test_each_level_of_the_log_has_its_line() -> None:
    each = packaged(events([at(5, 10 + i) for i in range(6)], [1, 3, 0, 8, 15, 6]))[0]
    assert log_line(each, 0, 6) == "00000005"
    assert log_line(each, 1, 6) == "00000005\t6"
    assert log_line(each, 2, 6) == "epoch: 00000005 \t entries: 6"
    assert log_line(each, 3, 6) == "00000005\t6\t1\t0\t0\t1\t1\t1"
    assert log_line(each, 3, 4) == "00000005\t5\t3\t3\t2\t2"
