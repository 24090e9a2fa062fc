"""Generated games on disk: made in parallel from seeds, complete or absent, checked against their hashes."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meowtea.envs.story_file import GameFiles
from meowtea.envs.worker import CallFailed, Worker, WorkerDied, WorkerTimeout
from meowtea.errors import DataError

logger = logging.getLogger(__name__)

MAKE_SECONDS = 600.0  # for one game, which usually takes one second; some options keep the generator busy for hours
STALE_SECONDS = 3600.0  # a making folder this old belongs to a making that was killed


@dataclass(frozen=True)
class Recipe:
    """What a generated game is made of; equal recipes give equal games."""

    generator: str
    options: dict[str, Any]
    seed: int

    @property
    def folder(self) -> str:
        from importlib.metadata import version

        options = json.dumps(self.options, sort_keys=True)
        digest = hashlib.sha256(options.encode()).hexdigest()[:12]
        return f"textworld-{version('textworld')}/{self.generator}-{digest}"


class GameCache:
    """Games under `root`/textworld-VERSION/GENERATOR-OPTIONS/SEED.{z8,json,sha256}.

    The .sha256 file is written last and names the hashes of the other two: without it, or with another content
    than it says, a game counts as absent and is made again.
    """

    def __init__(self, root: str | None):
        """`root`: None for $MEOWTEA_CACHE, or ~/.cache/meowtea where that is not set."""
        home = os.environ.get("MEOWTEA_CACHE") or Path.home() / ".cache" / "meowtea"
        self.root = Path(root).expanduser() if root else Path(home)

    def files(self, recipe: Recipe) -> GameFiles:
        return GameFiles(self.root / recipe.folder / f"{recipe.seed}.z8")

    def holds(self, recipe: Recipe) -> bool:
        """Whether the game is there, whole and undamaged."""
        files = self.files(recipe)
        try:
            noted = files.story.with_suffix(".sha256").read_text()
            return noted == files.hashes()
        except OSError:
            return False

    def prepare(
        self, recipes: Sequence[Recipe], workers: int, progress: Callable[[int, int], None] | None = None
    ) -> int:
        """Make what is missing or damaged, `workers` at a time; returns how many were made.

        progress(done, total) counts all recipes. Errors: DataError if a game cannot be made.
        """
        missing = []
        for recipe in recipes:
            if not self.holds(recipe):
                missing.append(recipe)
                if self.files(recipe).story.exists():
                    logger.warning("%s is damaged or incomplete; making it again", self.files(recipe).story)
        done = len(recipes) - len(missing)
        if progress:
            progress(done, len(recipes))
        if missing:
            self._sweep()
            Makers(self, missing, min(workers, len(missing))).run(
                lambda made: progress(done + made, len(recipes)) if progress else None
            )
        return len(missing)

    def make(self, recipe: Recipe) -> None:
        """Make one game here and now. Written beside its place and renamed, so that no half game is ever seen."""
        from textworld.generator import QuestGenerationError, compile_game
        from textworld.generator.inform7 import CouldNotCompileGameError

        from meowtea.envs.generators import make_game

        final = self.files(recipe)
        try:
            final.story.parent.mkdir(parents=True, exist_ok=True)
            workshop = tempfile.mkdtemp(prefix=".making-", dir=final.story.parent)
        except OSError as error:
            raise DataError(
                f"cannot write games to {final.story.parent}: {error}; set env.cache_dir or $MEOWTEA_CACHE"
            ) from None
        tempfile.tempdir = workshop  # the compiler's own scratch folder goes where it is swept up
        try:
            game, options = make_game(recipe.generator, recipe.options, recipe.seed)
            options.path = f"{workshop}/game.z8"
            compile_game(game, options)
            made = GameFiles(Path(options.path))
            note = Path(workshop) / "game.sha256"
            note.write_text(made.hashes())
            os.replace(made.definition, final.definition)
            os.replace(made.story, final.story)
            os.replace(note, final.story.with_suffix(".sha256"))
        except (QuestGenerationError, CouldNotCompileGameError, ValueError, AssertionError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise DataError(
                f"TextWorld cannot make a {recipe.generator} game with {recipe.options} and seed {recipe.seed}: "
                f"{reason}; change these options of env"
            ) from None
        except OSError as error:
            raise DataError(f"cannot write games to {final.story.parent}: {error}") from None
        finally:
            tempfile.tempdir = None
            shutil.rmtree(workshop, ignore_errors=True)

    def _sweep(self) -> None:
        for workshop in self.root.glob("textworld-*/*/.making-*"):
            try:
                stale = time.time() - workshop.stat().st_mtime > STALE_SECONDS
            except FileNotFoundError:
                continue
            if stale:
                shutil.rmtree(workshop, ignore_errors=True)


class Makers:
    """Threads that each keep one maker process busy until every recipe is made or one has failed."""

    def __init__(self, cache: GameCache, recipes: Sequence[Recipe], workers: int):
        self.cache = cache
        self._todo = list(reversed(recipes))
        self._failure: DataError | None = None
        self._made = 0
        self._changed = threading.Condition()
        self._workers = [Worker(cache) for _ in range(workers)]

    def run(self, on_made: Callable[[int], None]) -> None:
        """Calls on_made(games made so far) in this thread."""
        threads = [threading.Thread(target=self._serve, args=(worker,), daemon=True) for worker in self._workers]
        total = len(self._todo)
        try:
            for thread in threads:
                thread.start()
            for made in range(1, total + 1):
                with self._changed:
                    while self._made < made and self._failure is None:
                        self._changed.wait()
                    if self._failure is not None:
                        raise self._failure
                on_made(made)
        finally:
            for worker in self._workers:
                worker.kill()
            for thread in threads:
                thread.join()
            for worker in self._workers:
                worker.close()

    def _serve(self, worker: Worker) -> None:
        while True:
            with self._changed:
                if not self._todo or self._failure is not None:
                    return
                recipe = self._todo.pop()
            failure: DataError | None = None
            try:
                worker.call("make", recipe, timeout=MAKE_SECONDS)
            except CallFailed as error:
                failure = DataError(str(error))
            except (WorkerDied, WorkerTimeout) as error:
                failure = DataError(
                    f"making the {recipe.generator} game with {recipe.options} and seed {recipe.seed} failed: {error}; "
                    "change these options of env"
                )
            with self._changed:
                self._made += failure is None
                self._failure = self._failure or failure
                self._changed.notify_all()
