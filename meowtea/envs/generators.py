"""TextWorld's game generators: options and a seed in, a game's definition out. Runs in maker processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textworld import GameOptions
    from textworld.generator import Game


def custom(options: GameOptions, *, rooms: int, objects: int, quest_length: int, quest_breadth: int) -> Game:
    """What `tw-make custom --world-size --nb-objects --quest-length --seed` makes, with the same seeds."""
    from textworld.generator import make_game

    options.nb_rooms = rooms
    options.nb_objects = objects
    options.quest_length = quest_length
    options.chaining.max_breadth = quest_breadth
    return make_game(options)


def tw_simple(options: GameOptions, *, rewards: str, goal: str, test_foods: bool) -> Game:
    from textworld.challenges.tw_simple import simple

    return simple.make({"rewards": rewards, "goal": goal, "test": test_foods}, options)


def coin_collector(options: GameOptions, *, level: int) -> Game:
    from textworld.challenges.tw_coin_collector import coin_collector

    return coin_collector.make({"level": level}, options)


def treasure_hunter(options: GameOptions, *, level: int) -> Game:
    from textworld.challenges.tw_treasure_hunter import treasure_hunter

    return treasure_hunter.make({"level": level}, options)


def cooking(options: GameOptions, *, foods: str | None, **skills: Any) -> Game:
    from textworld.challenges.tw_cooking import cooking

    return cooking.make({**skills, "split": foods, "recipe_seed": 0}, options)


GENERATORS: dict[str, Callable[..., Game]] = {
    "custom": custom,
    "tw-simple": tw_simple,
    "coin_collector": coin_collector,
    "treasure_hunter": treasure_hunter,
    "cooking": cooking,
}


def make_game(generator: str, options: dict[str, Any], seed: int) -> tuple[Game, GameOptions]:
    """The game of one seed, not yet compiled. The same seed gives the same game under one PYTHONHASHSEED."""
    import textworld

    textworld.g_rng.set_seed(seed)  # for whatever draws from the library's global generator
    game_options = textworld.GameOptions()
    game_options.seeds = seed
    return GENERATORS[generator](game_options, **options), game_options
