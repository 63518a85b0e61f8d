"""Every Atari game that ale-py has loads, steps, and fits its default model."""

from concurrent.futures import ThreadPoolExecutor

import ale_py
import gymnasium
import numpy as np
import pytest

from barista import games, model
from barista.games.models import model_for

GAMES = sorted(name for name, spec in gymnasium.registry.items() if spec.namespace == "ALE")

WITHOUT_FIRE = {"ALE/Skiing-v5", "ALE/LostLuggage-v5"}  # the emulator's full set is 9 there


def _wrong_with(game, *, protocol="nature", steps=2):
    """What is wrong with a game: None if nothing is."""
    try:
        vector = games.make(game, num_envs=1, seed=1, protocol=protocol)
        spec = vector.spec
        model.check(model_for(spec).net, spec, game)
        if steps < 10:
            vector._seeds = None  # to seed an emulator is to load it once more
        shown = [vector.reset()]
        for action in np.arange(-1, steps - 1) % spec.num_actions:  # the last action first
            step = vector.step(np.array([action]))
            shown.append(step.frames)
            assert np.isfinite(step.rewards).all()
        # The pseudo-step after a lost life sends action 0 for the no-op.
        has_lives = vector._lives is not None and vector._lives._left[0] > 1
        assert not has_lives or vector._envs.ale.get_action_set()[0] == ale_py.Action.NOOP
        assert protocol != "ale" or spec.num_actions == (9 if game in WITHOUT_FIRE else 18)
        vector.close()
        assert {frame.shape for frame in shown} == {(1, 84, 84)}
        assert steps < 100 or np.unique(shown).size > 2, "the screen stays blank"
    except (AssertionError, ValueError, RuntimeError) as error:
        return f"{game}: {error!r}"
    return None


def _wrong(**options):
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda game: _wrong_with(game, **options), GAMES)
    return [each for each in found if each is not None]


def test_every_game_loads_steps_and_fits_its_model():
    assert len(GAMES) > 100
    assert _wrong() == []


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("protocol", games.PROTOCOLS)
def test_every_game_is_played_for_a_while_by_every_protocol(protocol):
    assert _wrong(protocol=protocol, steps=200) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_spec_of_every_game_is_that_of_its_vector():
    for game in GAMES:
        vector = games.make(game, num_envs=1, seed=1)
        assert vector.spec == games.spec(game)
        vector.close()
