"""Decisions: what follows from a verdict, and up to where a run was sound."""

import pytest

from ganscale.config.health import Health
from ganscale.health.detectors import Verdict
from ganscale.health.policy import healthy_until, respond, rollback_limit

SICK = Verdict("divergence", "it grew", since=3)


def test_a_warning_changes_nothing() -> None:
    decision = respond(Health(), SICK, target=500, rollbacks=0, length=2000)
    assert (decision.action, decision.kind, decision.text) == ("warn", "divergence", "it grew")


def test_a_stop_names_the_ways_on() -> None:
    decision = respond(Health(response="stop"), SICK, target=500, rollbacks=0, length=2000)
    assert decision.action == "stop"
    assert decision.text.startswith("it grew; ")
    assert "health.response=rollback" in decision.text


@pytest.mark.parametrize("rollbacks", [0, 1, 2, 3])
def test_roll_backs_are_counted_and_end_in_a_stop(rollbacks: int) -> None:
    settings = Health(response="rollback", max_rollbacks=2, rate_factor=0.5, penalty_factor=2.0)
    decision = respond(settings, SICK, target=1500, rollbacks=rollbacks, length=2000)
    if rollbacks >= 2:
        assert decision.action == "stop"
        assert f"after {rollbacks} of 2 rollbacks" in decision.text
        return
    assert (decision.action, decision.target) == ("rollback", 1500)
    assert f"rollback {rollbacks + 1} of 2 to 1,500 images" in decision.text
    now, then = 0.5 ** (rollbacks + 1 + 0.75), 0.5 ** (rollbacks + 2)
    assert f"rates times {now:.3g}, which falls to {then:.3g}" in decision.text
    assert f"penalties times {2 ** (rollbacks + 1)}" in decision.text


def test_bad_data_are_no_reason_to_roll_back() -> None:
    bad = Verdict("data", "copies", since=3)
    assert respond(Health(response="rollback"), bad, target=500, rollbacks=0, length=2000).action == "warn"
    assert respond(Health(response="stop"), bad, target=500, rollbacks=0, length=2000).action == "stop"


def test_a_roll_back_to_the_beginning_says_so() -> None:
    decision = respond(Health(response="rollback"), SICK, target=0, rollbacks=0, length=2000)
    assert decision.target == 0
    assert "to the beginning, rates times 0.1, which falls to 0.01" in decision.text
    assert "penalties" not in decision.text


@pytest.mark.parametrize(("since", "images"), [(0, 0), (1, 100), (3, 300)])
def test_sound_is_what_was_before_the_first_bad_tick(since: int, images: int) -> None:
    assert healthy_until([100, 200, 300, 400, 500], since) == images


@pytest.mark.parametrize(
    ("now", "sound", "trusted"),
    [(700, 650, 299), (900, 850, 299), (901, 850, 850), (700, 200, 200)],
    ids=["again", "little later", "far later", "earlier"],
)
def test_a_state_from_which_the_trouble_came_back_is_not_trusted(now: int, sound: int, trusted: int) -> None:
    assert rollback_limit(sound, now, [], length=800) == sound
    assert rollback_limit(sound, now, [{"at": 100, "to": 50}, {"at": 600, "to": 300}], length=800) == trusted
    assert rollback_limit(sound, now, [{"at": 600, "to": 0}], length=800) == (sound if now > 1200 else 0)


@pytest.mark.parametrize(("sound", "trusted"), [(0, 0), (249, 0), (250, 250), (600, 600)])
def test_nothing_early_is_trusted(sound: int, trusted: int) -> None:
    assert rollback_limit(sound, 700, [], length=1000) == trusted
    assert rollback_limit(700, 750, [{"at": 740, "to": sound + 1}], length=1000) == trusted
