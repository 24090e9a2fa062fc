"""What every environment must do. A test class inherits EnvironmentContract and provides `environment`."""

from __future__ import annotations

import dataclasses
import pickle

import pytest

from meowtea.envs.base import Environment, TextEnv
from meowtea.types import Outcome, Step, Task


class EnvironmentContract:
    """Provide a fixture `environment` (hints='none') whose 'test' and 'train' splits have two tasks or more."""

    @pytest.fixture
    def environment(self) -> Environment:
        raise NotImplementedError

    @pytest.fixture
    def tasks(self, environment) -> list[Task]:
        tasks = environment.tasks("test", 2)
        environment.prepare(tasks)
        return tasks

    @pytest.fixture
    def env(self, environment):
        env = environment.make_env()
        yield env
        env.close()

    def play(self, env: TextEnv, task: Task, commands: list[str]) -> list[Step]:
        return [env.reset(task), *(env.step(command) for command in commands)]

    def test_tasks_are_stable_and_splits_disjoint(self, environment):
        first, again = environment.tasks("test", 2), environment.tasks("test")
        assert first == again[:2]
        assert [task.spec for task in first] == [task.spec for task in again[:2]]
        assert len({task.id for task in again}) == len(again)
        assert {task.split for task in first} == {"test"}
        assert not {task.id for task in again} & {task.id for task in environment.tasks("train")}

    def test_prepare_reports_progress_up_to_the_total(self, environment):
        seen = []
        environment.prepare(environment.tasks("test", 2), lambda done, total: seen.append((done, total)))
        assert seen[-1] == (2, 2)
        assert seen == sorted(seen)

    def test_environment_survives_pickling(self, environment, tasks):
        copy = pickle.loads(pickle.dumps(environment))
        assert copy.protocol() == environment.protocol()
        assert copy.make_env().reset(tasks[0]) == environment.make_env().reset(tasks[0])

    def test_walkthrough_wins_at_its_last_command_and_not_before(self, env, tasks):
        for task in tasks:
            env.reset(task)
            steps = self.play(env, task, env.walkthrough())
            assert [step.outcome for step in steps] == [None] * (len(steps) - 1) + [Outcome.WON]
            assert all(step.valid_command for step in steps[1:])

    def test_progress_and_score_go_from_nothing_to_all(self, env, tasks):
        for task in tasks:
            env.reset(task)
            steps = self.play(env, task, env.walkthrough())
            progress, scores = [step.progress for step in steps], [step.score for step in steps]
            assert progress[0] == 0.0 and progress[-1] == 1.0
            assert all(0.0 <= share <= 1.0 for share in progress)
            assert scores[0] == 0.0 and scores[-1] == steps[-1].max_score
            assert len({step.max_score for step in steps}) == 1

    def test_first_step_tells_objective_and_text(self, env, tasks):
        step = env.reset(tasks[0])
        assert step.objective is not None and step.observation.strip()
        assert step.valid_command is None and step.outcome is None

    def test_same_commands_give_the_same_steps(self, environment, tasks):
        commands = ["look", "xyzzy", "left", "take all", "inventory"]
        runs = []
        for _ in range(2):
            env = environment.make_env()
            runs.append(self.play(env, tasks[0], commands))
            env.close()
        assert runs[0] == runs[1]

    def test_reset_starts_over_and_other_tasks_do_not_leak(self, env, tasks):
        fresh = dataclasses.asdict(env.reset(tasks[0]))
        env.step(env.walkthrough()[0])
        env.reset(tasks[1])
        assert dataclasses.asdict(env.reset(tasks[0])) == fresh

    def test_nonsense_is_invalid_and_does_not_end_the_game(self, env, tasks):
        before = env.reset(tasks[0])
        step = env.step("xyzzy plugh")
        assert step.valid_command is False and step.outcome is None
        assert (step.score, step.progress) == (before.score, before.progress)
        assert self.play(env, tasks[0], env.walkthrough())[-1].outcome is Outcome.WON

    def test_step_before_reset_and_after_the_end_is_an_error(self, env, tasks):
        with pytest.raises(RuntimeError, match="reset"):
            env.step("look")
        env.reset(tasks[0])
        for command in env.walkthrough():
            env.step(command)
        with pytest.raises(RuntimeError, match="reset"):
            env.step("look")

    def test_walkthrough_does_not_depend_on_what_was_played(self, env, tasks):
        env.reset(tasks[0])
        plan = env.walkthrough()
        env.step(plan[0])
        assert env.walkthrough() == plan

    def test_no_hints_unless_asked(self, env, tasks):
        env.reset(tasks[0])
        assert env.step(env.walkthrough()[0]).admissible is None

    def test_hints_hold_the_next_command_of_the_walkthrough(self, environment, tasks):
        environment.hints = "admissible"
        env = environment.make_env()
        step = env.reset(tasks[0])
        for command in env.walkthrough():
            assert step.admissible is not None and command in step.admissible
            step = env.step(command)
        env.close()

    def test_protocol_hash_depends_on_what_is_played(self, environment):
        card = environment.protocol()
        environment.max_turns += 1
        assert environment.protocol()["hash"] != card["hash"]
        environment.max_turns -= 1
        assert environment.protocol() == card

    def test_games_hash_depends_on_the_games(self, environment, tasks):
        assert environment.games_hash(tasks) == environment.games_hash(list(tasks))
        assert environment.games_hash(tasks) != environment.games_hash(tasks[:1])
