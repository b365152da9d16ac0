"""Containers die, Vault is sealed, networks are cut, all under load: nothing twice, all heals."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import pytest
import urllib3

from two_kmes import Site, TwoKmes, cut_off, wait_for


@dataclass
class Load:
    """SAEs of both sites that keep asking for keys and drawing them; what they saw."""

    kmes: TwoKmes
    given: dict[str, bytes] = field(default_factory=dict)
    drawn: dict[str, bytes] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    refused: set[int] = field(default_factory=set)
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, master: Site, slave: Site) -> None:
        while not self._stop.is_set():
            try:
                self._round(master, slave)
            except (urllib3.exceptions.HTTPError, OSError):
                time.sleep(0.1)

    def _round(self, master: Site, slave: Site) -> None:
        answer = master.enc_keys(slave, 2)
        if answer.status != 200:
            with self._lock:
                self.refused.add(answer.status)
            time.sleep(0.1)
            return
        with self._lock:
            if self.given.keys() & answer.keys.keys():
                self.faults.append("a key_ID was given twice")
            if set(self.given.values()) & set(answer.keys.values()):
                self.faults.append("the same bytes were given under two key_IDs")
            self.given |= answer.keys
        drawn = slave.dec_keys(master, *answer.keys)
        if drawn.status != 200:
            return
        with self._lock:
            if drawn.keys != answer.keys:
                self.faults.append("the two ends differ")
            if self.drawn.keys() & drawn.keys.keys():
                self.faults.append("a key was drawn twice")
            self.drawn |= drawn.keys
        if slave.dec_keys(master, *answer.keys).status == 200:
            self.faults.append("a second draw succeeded")

    @contextmanager
    def running(self) -> Iterator["Load"]:
        threads = [
            threading.Thread(target=self.run, args=sites)
            for sites in (self.kmes.sites, self.kmes.sites[::-1])
        ]
        for thread in threads:
            thread.start()
        try:
            wait_for(lambda: len(self.drawn) >= 4, 30.0)
            yield self
            before = len(self.drawn)
            wait_for(lambda: len(self.drawn) >= before + 8, 60.0)
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(60.0)
        assert not self.faults
        assert self.refused <= {503, 502, 504, 404}


def _kill_and_start(site: Site, service: str) -> None:
    container = site.container(service)
    container.kill("SIGKILL")
    container.wait()
    container.start()


@pytest.mark.parametrize("service", ["vault", "unsealer", "watcher", "rest", "traefik"])
def test_a_killed_container_costs_no_key_twice_and_service_comes_back(
    kmes: TwoKmes, service: str
) -> None:
    with Load(kmes).running():
        _kill_and_start(kmes.first, service)
        time.sleep(1.0)
        _kill_and_start(kmes.second, service)


def test_a_paused_container_is_an_outage_and_nothing_more(kmes: TwoKmes) -> None:
    with Load(kmes).running():
        container = kmes.first.container("rest")
        container.pause()
        time.sleep(6.0)
        container.unpause()


def test_vault_restarted_serves_again_within_ten_seconds(kmes: TwoKmes) -> None:
    kmes.first.container("vault").restart(timeout=5)
    begun_s = time.monotonic()
    wait_for(lambda: kmes.deliver(*kmes.sites), 30.0, 0.1)
    assert time.monotonic() - begun_s < 15.0


def test_vault_sealed_under_load_is_unsealed_and_goes_on(
    kmes: TwoKmes, seal: Callable[[Site], None]
) -> None:
    with Load(kmes).running():
        seal(kmes.first)
        seal(kmes.second)


def test_a_cut_network_stops_new_keys_at_both_ends_and_heals_by_itself(kmes: TwoKmes) -> None:
    with Load(kmes).running():
        with cut_off(*kmes.sites):
            for master, slave in (kmes.sites, kmes.sites[::-1]):
                wait_for(partial(refuses, master, slave), 30.0)
        kmes.wait_until_served()


def test_a_kme_that_cannot_call_out_stops_giving_keys_and_the_other_goes_on(kmes: TwoKmes) -> None:
    with cut_off(kmes.first):
        wait_for(partial(refuses, kmes.first, kmes.second), 30.0)
        # The other one's heartbeats still arrive and are accepted.
        (key_id,) = kmes.second.enc_keys(kmes.first).keys
        assert kmes.first.dec_keys(kmes.second, key_id).status == 200


def refuses(master: Site, slave: Site) -> bool:
    return master.enc_keys(slave).status == 503


@pytest.fixture
def seal() -> Callable[[Site], None]:
    """Seal a site's Vault: a restart is what leaves it sealed, for nobody's token may seal it."""

    def restart_sealed(site: Site) -> None:
        unsealer = site.container("unsealer")
        unsealer.pause()
        site.container("vault").restart(timeout=5)
        time.sleep(2.0)
        unsealer.unpause()

    return restart_sealed
