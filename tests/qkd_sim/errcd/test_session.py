from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from errcd_parties import Bits, Outcome, Wire, noisy_pair, random_bits, run_both
from kme.errors import KmeError
from kme.ids import Epoch
from qkd_sim.errcd.assemble import SiftedBlock
from qkd_sim.errcd.cascade import VARIANTS
from qkd_sim.errcd.channel import FramedChannel
from qkd_sim.errcd.corrector import Corrector
from qkd_sim.errcd.estimate import choose_sample
from qkd_sim.errcd.messages import (
    AmplificationSeed,
    Branches,
    CheckRequest,
    Confirmation,
    Goodbye,
    KeyTag,
    Message,
    Offer,
    Parities,
    PassRequest,
    Plan,
    Reason,
    ReconcileDone,
    Refusal,
    SampleBits,
    Verdict,
    WaveRequest,
    unpack,
)
from qkd_sim.errcd.randomness import SeededRandomness
from qkd_sim.errcd.result import FinishedBlock
from qkd_sim.errcd.session import Session
from qkd_sim.errcd.terms import Conduct, Terms
from qkd_sim.errors import BlockRefusedError, ChannelError, EpochFileError, InputError

START = Epoch(0x4F87)
Wires = tuple[Wire, Wire]


@pytest.fixture
def wires() -> Iterator[Wires]:
    """Two ends of a socket pair that keep what they carry."""
    ends = FramedChannel.pair(timeout_s=20.0)
    yield Wire(ends[0]), Wire(ends[1])
    for end in ends:
        end.close()


def block(bits: Bits) -> SiftedBlock:
    return SiftedBlock(START, 4, bits)


def session(wire: Wire, terms: Terms | None = None, conduct: Conduct | None = None) -> Session:
    return Session(wire, SeededRandomness(1, "test"), terms, conduct)


def distil(
    wires: Wires,
    keys: tuple[Bits, Bits],
    terms: tuple[Terms, Terms] = (Terms(), Terms()),
    conduct: Conduct | None = None,
) -> Outcome[FinishedBlock, FinishedBlock | None]:
    alice, bob = (session(wire, term, conduct) for wire, term in zip(wires, terms, strict=True))
    return run_both(
        lambda: alice.offer(block(keys[0])),
        lambda: bob.accept(lambda start, n: SiftedBlock(start, n, keys[1])),
    )


def finished(outcome: Outcome[FinishedBlock, FinishedBlock | None]) -> tuple[FinishedBlock, ...]:
    sides = (outcome.alice, outcome.bob)
    for side in sides:
        assert isinstance(side, FinishedBlock), side
    return sides  # type: ignore[return-value]


def heard(wire: Wire, *kinds: type[Message]) -> list[Message]:
    return [said for data in wire.received if isinstance(said := unpack(data), kinds)]


@pytest.mark.parametrize(
    ("n", "qber"), [(5_000, 0.01), (20_000, 0.03), (60_000, 0.05), (200_000, 0.08)]
)
def test_both_sides_come_to_the_same_key_and_the_same_figures(
    wires: Wires, n: int, qber: float
) -> None:
    keys = noisy_pair(np.random.default_rng(n), n, qber)
    alice, bob = finished(distil(wires, keys, conduct=Conduct(expected_qber=qber)))
    assert alice.key == bob.key
    assert replace(alice.result, seconds={}) == replace(bob.result, seconds={})
    result = alice.result
    assert len(alice.key) == -(-result.final_bits // 8)
    assert result.final_bits > 0
    assert result.sifted_bits == n
    assert result.sample.errors + result.corrected_bits == np.count_nonzero(keys[0] != keys[1])
    assert set(result.seconds) == {"estimate", "reconcile", "verify", "amplify"}


def test_every_parity_on_the_wire_is_counted_by_both(wires: Wires) -> None:
    keys = noisy_pair(np.random.default_rng(2), 30_000, 0.04)
    alice, bob = finished(distil(wires, keys))
    told = heard(wires[1], Parities)
    n_told = sum(said.bits.size for said in told if isinstance(said, Parities))
    assert n_told == alice.result.disclosed_bits == bob.result.disclosed_bits
    terms = Terms()
    n_key = alice.result.key_bits
    assert alice.result.final_bits == terms.final_bits(n_key, alice.result.sample, n_told)


def test_alice_says_nothing_that_depends_on_her_key_but_sample_parities_and_tag(
    wires: Wires,
) -> None:
    finished(distil(wires, noisy_pair(np.random.default_rng(3), 20_000, 0.03)))
    kinds = {type(said) for said in heard(wires[1], Message)}
    assert kinds == {Offer, SampleBits, Plan, Parities, KeyTag, AmplificationSeed}
    assert len(heard(wires[1], SampleBits)) == len(heard(wires[1], KeyTag)) == 1


def test_no_bit_of_bobs_key_travels_but_the_sample(wires: Wires) -> None:
    """All that Bob says follows from the sample, from where errors are and from what Alice said."""
    rng = np.random.default_rng(4)
    keys = noisy_pair(rng, 20_000, 0.03)
    finished(distil(wires, keys))
    kinds = {type(said) for said in heard(wires[0], Message)}
    questions = {PassRequest, WaveRequest, Branches, CheckRequest}
    assert kinds == {SampleBits, *questions, ReconcileDone, Verdict, Confirmation}
    flipped = random_bits(rng, 20_000)
    again = FramedChannel.pair(timeout_s=20.0)
    others = (Wire(again[0]), Wire(again[1]))
    finished(distil(others, (keys[0] ^ flipped, keys[1] ^ flipped)))
    said = [data for data in wires[0].received if not isinstance(unpack(data), SampleBits)]
    said_again = [data for data in others[0].received if not isinstance(unpack(data), SampleBits)]
    assert said == said_again
    (sample,) = heard(wires[0], SampleBits)
    (offer,) = heard(wires[1], Offer)
    assert isinstance(sample, SampleBits)
    assert isinstance(offer, Offer)
    is_sample = choose_sample(20_000, offer.sample_bits, offer.sample_seed)
    assert sample.bits.tolist() == keys[1][is_sample].tolist()
    for end in again:
        end.close()


def test_messages_are_counted_to_the_byte(wires: Wires) -> None:
    finished(distil(wires, noisy_pair(np.random.default_rng(5), 20_000, 0.03)))
    for wire in wires:
        channel = wire.channel
        assert isinstance(channel, FramedChannel)
        assert channel.sent_bytes == sum(4 + len(data) for data in wire.sent)
        assert channel.received_bytes == sum(4 + len(data) for data in wire.received)


def test_the_same_seed_gives_the_same_key(wires: Wires) -> None:
    keys = noisy_pair(np.random.default_rng(6), 10_000, 0.02)
    first = finished(distil(wires, keys))[0]
    assert finished(distil(wires, keys))[0].key == first.key
    assert not np.array_equal(keys[0], keys[1])


def refusals(outcome: Outcome[FinishedBlock, FinishedBlock | None]) -> tuple[str, str]:
    for side in (outcome.alice, outcome.bob):
        assert isinstance(side, BlockRefusedError), side
    return str(outcome.alice), str(outcome.bob)


def test_too_many_errors_are_refused_on_both_sides_and_the_next_block_goes_on(
    wires: Wires,
) -> None:
    rng = np.random.default_rng(7)
    outcome = distil(wires, noisy_pair(rng, 20_000, 0.14))
    for text in refusals(outcome):
        assert Reason.TOO_MANY_ERRORS.text in text
    for side in (outcome.alice, outcome.bob):
        assert isinstance(side, KmeError)
        known = side.diagnostics()
        assert known["sifted_bits"] == 20_000
        assert known["qber"] == pytest.approx(0.14, abs=0.04)
    finished(distil(wires, noisy_pair(rng, 20_000, 0.02)))


@pytest.mark.parametrize("n", [2, 10, 500])
def test_a_block_too_short_is_refused_on_both_sides(wires: Wires, n: int) -> None:
    for text in refusals(distil(wires, noisy_pair(np.random.default_rng(8), n, 0.0))):
        assert Reason.TOO_SHORT.text in text


def test_a_block_that_reconciliation_used_up_is_refused_on_both_sides(wires: Wires) -> None:
    keys = noisy_pair(np.random.default_rng(20), 20_000, 0.05)
    wasteful = Conduct(block_qber=0.45, variant="fast")
    for text in refusals(distil(wires, keys, conduct=wasteful)):
        assert Reason.TOO_SHORT.text in text
    assert heard(wires[0], ReconcileDone)
    assert not heard(wires[1], KeyTag)


def test_a_block_of_one_bit_is_not_even_offered(wires: Wires) -> None:
    with pytest.raises(BlockRefusedError, match="2 to"):
        session(wires[0]).offer(block(np.ones(1, np.uint8)))
    assert not wires[0].sent


def test_keys_that_still_differ_are_dropped_on_both_sides(
    wires: Wires, monkeypatch: pytest.MonkeyPatch
) -> None:
    def miss_one(self: Corrector) -> Bits:
        bits = self._words.copy()
        bits[0] ^= np.uint64(4)
        return np.unpackbits(bits.view(np.uint8), bitorder="little")[: self._n_bits]

    monkeypatch.setattr(Corrector, "key", property(miss_one))
    outcome = distil(wires, noisy_pair(np.random.default_rng(9), 20_000, 0.02))
    assert refusals(outcome) == (Reason.KEYS_DIFFER.text, Reason.KEYS_DIFFER.text)
    monkeypatch.undo()
    finished(distil(wires, noisy_pair(np.random.default_rng(9), 20_000, 0.02)))


def test_keys_of_different_lengths_are_refused(wires: Wires) -> None:
    rng = np.random.default_rng(10)
    texts = refusals(distil(wires, (random_bits(rng, 5000), random_bits(rng, 5001))))
    assert all(Reason.OTHER_LENGTH.text in text for text in texts)


def test_different_terms_are_refused(wires: Wires) -> None:
    keys = noisy_pair(np.random.default_rng(11), 5000, 0.02)
    texts = refusals(distil(wires, keys, (Terms(), Terms(qber_limit=0.1))))
    assert all(Reason.OTHER_TERMS.text in text for text in texts)


def test_a_side_without_raw_key_says_so_and_keeps_its_own_error(wires: Wires) -> None:
    def load(start_epoch: Epoch, n_epochs: int) -> SiftedBlock:
        raise EpochFileError("00004f87", 0, f"no file for {start_epoch}, {n_epochs}")

    alice, bob = session(wires[0]), session(wires[1])
    outcome = run_both(
        lambda: alice.offer(block(random_bits(np.random.default_rng(12), 5000))),
        lambda: bob.accept(load),
    )
    assert isinstance(outcome.bob, EpochFileError)
    assert isinstance(outcome.alice, BlockRefusedError)
    assert Reason.NO_RAW_KEY.text in str(outcome.alice)


def test_goodbye_ends_the_talk(wires: Wires) -> None:
    session(wires[0]).say_goodbye()
    assert session(wires[1]).accept(lambda start, n: pytest.fail("nothing was offered")) is None


def test_a_preset_error_rate_fixes_the_length_and_refuses_what_is_above() -> None:
    terms = Terms(preset_qber=0.05)
    lengths = set()
    for qber in (0.01, 0.03):
        ends = FramedChannel.pair(timeout_s=20.0)
        keys = noisy_pair(np.random.default_rng(13), 50_000, qber)
        result = finished(distil((Wire(ends[0]), Wire(ends[1])), keys, (terms, terms)))[0].result
        lengths.add(result.final_bits + result.disclosed_bits)
        for end in ends:
            end.close()
    assert len(lengths) == 1
    ends = FramedChannel.pair(timeout_s=20.0)
    keys = noisy_pair(np.random.default_rng(14), 50_000, 0.07)
    refusals(distil((Wire(ends[0]), Wire(ends[1])), keys, (terms, terms)))
    for end in ends:
        end.close()


def test_a_margin_makes_the_key_shorter(wires: Wires) -> None:
    keys = noisy_pair(np.random.default_rng(15), 50_000, 0.03)
    plain = finished(distil(wires, keys))[0].result
    wary = Terms(margin_sigmas=3)
    assert finished(distil(wires, keys, (wary, wary)))[0].result.final_bits < plain.final_bits


def test_given_block_sizes_cost_bits_and_nothing_else(wires: Wires) -> None:
    keys = noisy_pair(np.random.default_rng(16), 50_000, 0.01)
    fitting = finished(distil(wires, keys))[0].result
    given = Conduct(block_qber=0.2, variant="fast", check_bits=30)
    wrong = finished(distil(wires, keys, conduct=given))[0].result
    assert wrong.disclosed_bits > 1.2 * fitting.disclosed_bits
    assert wrong.final_bits < fitting.final_bits


@pytest.mark.parametrize(
    "make",
    [
        lambda: Terms(qber_limit=0.5),
        lambda: Terms(preset_qber=0.0),
        lambda: Terms(margin_sigmas=-1),
        lambda: Terms(tag_bits=0),
        lambda: Terms(tag_bits=40),
        lambda: Conduct(expected_qber=0.7),
        lambda: Conduct(block_qber=0.0),
        lambda: Conduct(variant="best"),
        lambda: Conduct(check_bits=0),
    ],
)
def test_rules_out_of_range_are_refused(make: type[Terms]) -> None:
    with pytest.raises(InputError):
        make()


def test_there_is_a_variant_by_default() -> None:
    assert Conduct().variant in VARIANTS


# -- a peer that doesn't keep the rules


def as_alice_against(wires: Wires, *replies: Message | bytes) -> KmeError | FinishedBlock | None:
    """Let Alice offer a block to a Bob who says these things, whatever he hears."""

    def bob() -> None:
        for turn, reply in enumerate(replies):
            # she speaks once before each of his turns, before the second one twice
            for _ in range(2 if turn == 1 else 1):
                wires[1].receive()
            wires[1].send(reply if isinstance(reply, bytes) else reply.pack())

    key = random_bits(np.random.default_rng(17), 20_000)
    outcome = run_both(lambda: session(wires[0]).offer(block(key)), bob)
    return outcome.alice


def honest_sample() -> SampleBits:
    """Bob's sample as the seeded Alice will choose it, without errors."""
    ends = FramedChannel.pair()
    key = random_bits(np.random.default_rng(17), 20_000)
    finished(distil((Wire(ends[0]), wire := Wire(ends[1])), (key, key)))
    sample = next(said for data in wire.sent if isinstance(said := unpack(data), SampleBits))
    for end in ends:
        end.close()
    return sample


@pytest.mark.parametrize(
    "reply",
    [
        SampleBits(np.zeros(5, np.uint8)),
        Goodbye(),
        Plan(bytes(32)),
        Offer(0x4F87, 4, 100, 10, bytes(32), bytes(32)),
        b"",
        b"\xff" * 40,
        Refusal(200),
    ],
)
def test_alice_refuses_whatever_is_not_a_sample(wires: Wires, reply: Message | bytes) -> None:
    assert isinstance(as_alice_against(wires, reply), ChannelError)


@pytest.mark.parametrize(
    "question",
    [
        PassRequest(5, 64),
        PassRequest(0, 1 << 31),
        WaveRequest(0, np.array([[0, 1 << 31]], np.int64)),
        WaveRequest(200, np.array([[0, 8]], np.int64)),
        Branches(np.ones(1000, np.uint8)),
        CheckRequest(255),
        ReconcileDone(5, 0),
        ReconcileDone(0, 1 << 30),
        Verdict(True),  # noqa: FBT003
        Confirmation(1),
        PassRequest(0, 64).pack()[:-1],
    ],
)
def test_alice_refuses_whatever_is_no_question_that_she_can_answer(
    wires: Wires, question: Message | bytes
) -> None:
    assert isinstance(as_alice_against(wires, honest_sample(), question), ChannelError)


def test_a_bob_who_lies_about_the_count_is_found_out(wires: Wires) -> None:
    replies = (honest_sample(), PassRequest(0, 64), ReconcileDone(1, 0))
    alice = as_alice_against(wires, *replies)
    assert isinstance(alice, ChannelError)
    assert "counts 1 parities" in str(alice)


def test_a_confirmed_length_that_is_not_the_agreed_one_is_found_out(wires: Wires) -> None:
    replies = (
        honest_sample(),
        ReconcileDone(0, 0),
        Verdict(True),  # noqa: FBT003
        Confirmation(3),
    )
    alice = as_alice_against(wires, *replies)
    assert isinstance(alice, ChannelError)
    assert "another length" in str(alice)


def as_bob_against(wires: Wires, *sayings: Message) -> KmeError | FinishedBlock | None:
    """Let Bob accept from an Alice who says these things, whatever he answers."""
    for said in sayings:
        wires[0].send(said.pack())
    key = random_bits(np.random.default_rng(18), 20_000)
    try:
        return session(wires[1]).accept(lambda start, n: SiftedBlock(start, n, key))
    except KmeError as error:
        return error


def fair_offer(sample_bits: int = 2000) -> Offer:
    return Offer(0x4F87, 4, 20_000, sample_bits, bytes(32), Terms().digest())


def fair_sample() -> SampleBits:
    key = random_bits(np.random.default_rng(18), 20_000)
    return SampleBits(key[choose_sample(20_000, 2000, bytes(32))])


@pytest.mark.parametrize(
    "sayings",
    [
        (SampleBits(np.zeros(5, np.uint8)),),
        (fair_offer(), SampleBits(np.zeros(1999, np.uint8))),
        (fair_offer(), Goodbye()),
        (fair_offer(), fair_sample(), Parities(np.zeros(3, np.uint8))),
        (fair_offer(), fair_sample(), Plan(bytes(32)), Parities(np.zeros(3, np.uint8))),
        (fair_offer(), fair_sample(), Plan(bytes(32)), Verdict(True)),  # noqa: FBT003
    ],
)
def test_bob_refuses_whatever_is_not_due(wires: Wires, sayings: tuple[Message, ...]) -> None:
    assert isinstance(as_bob_against(wires, *sayings), ChannelError)


def test_bob_judges_the_sample_himself(wires: Wires) -> None:
    """An Alice who goes on in spite of too many errors is refused by Bob."""
    wrong = SampleBits(fair_sample().bits ^ np.tile(np.array([1, 0, 0, 0], np.uint8), 500))
    bob = as_bob_against(wires, fair_offer(), wrong, Plan(bytes(32)))
    assert isinstance(bob, BlockRefusedError)
    assert isinstance(unpack(wires[1].sent[-1]), Refusal)


def test_bob_makes_no_key_longer_than_the_formula_says(wires: Wires) -> None:
    key = random_bits(np.random.default_rng(18), 20_000)

    def greedy_alice() -> None:
        sent = wires[0]
        sent.send(fair_offer().pack())
        sent.receive()
        for said in (fair_sample(), Plan(bytes(32))):
            sent.send(said.pack())
        from qkd_sim.errcd.answerer import Answerer
        from qkd_sim.errcd.verify import KeyHash

        rest = key[~choose_sample(20_000, 2000, bytes(32))]
        alice = Answerer(rest, bytes(32))
        while not isinstance(question := unpack(sent.receive()), ReconcileDone):
            sent.send(alice.answer(question).pack())
        key_hash = KeyHash(1, 2, 3)
        sent.send(KeyTag(key_hash.pack(), key_hash.tag(rest, 64)).pack())
        sent.receive()
        sent.send(AmplificationSeed(np.ones(rest.size + rest.size - 1, np.uint8)).pack())

    outcome = run_both(
        greedy_alice,
        lambda: session(wires[1]).accept(lambda start, n: SiftedBlock(start, n, key)),
    )
    assert isinstance(outcome.bob, ChannelError)
    assert "another length" in str(outcome.bob)


def test_nothing_that_is_shown_holds_key_bits(wires: Wires) -> None:
    keys = noisy_pair(np.random.default_rng(19), 5000, 0.01)
    alice = finished(distil(wires, keys))[0]
    shown = repr(alice) + repr(block(keys[0])) + str(alice.result)
    assert alice.key.reveal().hex() not in shown
    assert repr(alice.key.reveal()) not in shown
    assert "array" not in shown
