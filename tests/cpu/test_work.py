"""The size of a team: estimated from the work, then by what calls took."""

import pytest
from conftest import small

from fastbp import side_by_side
from fastbp.cpu import engine, work
from fastbp.cpu.work import CALLS_TO_FEWER, CALLS_TO_MORE, TRIAL_CALLS, Trials, Work
from fastbp.network import Network


def run(trials, seconds, calls, working_share=1.0):
    """Time calls of 100 rows that take these seconds by team size; return the sizes chosen."""
    chosen = []
    for _ in range(calls):
        chosen.append(trials.choose())
        trials.record(100, 100 * seconds[chosen[-1]], working_share)
    return chosen


def test_a_team_is_tried_against_one_thread_where_it_may_be_faster():
    """Two threads went slower than one for minutes, where a barrier takes 250 ns."""
    near, far = {2: 10.0, 1: 15.0}, {2: 18.0, 1: 15.0}
    trials = Trials(2, may_favour_fewer=True)
    assert run(trials, near, 10) == [2] + TRIAL_CALLS * [2] + TRIAL_CALLS * [1] + 3 * [2]
    assert run(trials, far, 6) == TRIAL_CALLS * [2] + 3 * [1]
    again = run(trials, far, 4 * (CALLS_TO_MORE + TRIAL_CALLS)).count(2)
    assert again == 2 * TRIAL_CALLS, "tried again now and then, and ever more seldom"
    assert run(trials, near, 2 * CALLS_TO_FEWER).count(1) <= CALLS_TO_FEWER + TRIAL_CALLS
    assert run(trials, near, CALLS_TO_FEWER).count(1) <= TRIAL_CALLS, "likewise, but more rarely"


def test_the_first_call_does_not_count():
    """It compiles the kernel: the team looked a thousand times slower than one thread."""
    trials = Trials(2, may_favour_fewer=True)
    assert run(trials, {2: 5000.0, 1: 5000.0}, 1) == [2]
    assert run(trials, {2: 10.0, 1: 15.0}, 8)[-2:] == [2, 2]


def test_a_large_network_keeps_its_team_unless_something_is_wrong():
    trials = Trials(2, may_favour_fewer=False)
    assert run(trials, {2: 10.0, 1: 19.0}, 200) == [2] * 200
    beside_a_busy_process = {2: 24.0, 1: 20.0}
    assert run(trials, beside_a_busy_process, TRIAL_CALLS + 2) == [2] * TRIAL_CALLS + [1, 1]
    quiet_again = run(trials, {2: 10.0, 1: 19.0}, 3 * CALLS_TO_MORE)
    assert 1 not in quiet_again[CALLS_TO_MORE + TRIAL_CALLS :]


def test_one_slow_call_changes_nothing():
    trials = Trials(2, may_favour_fewer=False)
    run(trials, {2: 10.0}, 10)
    run(trials, {2: 100.0}, TRIAL_CALLS - 1)
    assert run(trials, {2: 10.0}, 10) == [2] * 10


def test_a_team_that_waits_for_its_cores_gives_way_at_once():
    """It compared itself only with its own best, which was no better beside the same processes."""
    crowded, trials = {2: 16.0, 1: 10.0}, Trials(2, may_favour_fewer=False)
    assert run(trials, crowded, 6, working_share=0.6) == [2, 2] + 4 * [1]
    trials = Trials(2, may_favour_fewer=False)
    still_faster = {2: 10.0, 1: 14.0}
    sizes = run(trials, still_faster, CALLS_TO_FEWER, working_share=0.6)
    assert sizes.count(1) == TRIAL_CALLS, "the trial did not pay"


def test_a_trial_that_goes_badly_is_a_single_call():
    """A team of two took four times as long as one thread, three calls of every 35."""
    collapsed = {2: 40.0, 1: 10.0}
    trials = Trials(2, may_favour_fewer=True)
    run(trials, collapsed, 10)
    sizes = run(trials, collapsed, 1000)
    assert 4 <= sizes.count(2) <= 10
    quiet_again = run(trials, {2: 6.0, 1: 10.0}, CALLS_TO_FEWER + 1)
    assert quiet_again[-1] == 2


def test_a_team_shrinks_and_grows_by_halves():
    fastest_with_three = {12: 20.0, 6: 12.0, 3: 9.0, 1: 30.0}
    trials = Trials(12, may_favour_fewer=True)
    chosen = run(trials, fastest_with_three, 20)
    assert list(dict.fromkeys(chosen)) == [12, 6, 3, 1]
    assert chosen[-6:] == [3] * 6
    assert Trials(1, may_favour_fewer=True).choose() == 1


def test_where_fewer_threads_may_be_faster():
    small, large = (Network(sizes, ("tanh",) * (len(sizes) - 2), "softmax", "log_loss")
                    for sizes in ((30, 64, 64, 3), (784, 128, 10)))  # fmt: skip
    assert Work(small).useful_threads(64) >= 2
    assert Work(small).may_favour_fewer(64, 2)
    assert not Work(large).may_favour_fewer(64, 2)
    assert Work(large).may_favour_fewer(64, 2, density=0.01), "sparse rows"
    assert Work(large).useful_threads(64, n_rows=64) == 1, "not worth starting threads"


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("cores", "asked", "expected"), [(2, 16, 2), (8, 3, 3), (1, 2, 1)])
def test_a_team_is_never_larger_than_the_cores_at_hand(monkeypatch, cores, asked, expected):
    """Sixteen threads on two cores took thirty times as long as one, waiting for each other."""
    monkeypatch.setattr(engine, "cores_at_hand", lambda: cores)
    sizes, run_team = [], engine.run_team
    monkeypatch.setattr(engine, "run_team", lambda n, *more: sizes.append(n) or run_team(n, *more))
    monkeypatch.setattr(work, "WORK_PER_THREAD", 1)
    monkeypatch.setattr(work, "WORK_PER_START", 0)
    model, X, y = small("multiclass", max_iter=1, n_threads=asked)
    model.fit(X, y)
    assert max(sizes) == expected


def test_fits_side_by_side_are_no_more_than_the_cores(monkeypatch):
    monkeypatch.setattr(side_by_side, "cores_at_hand", lambda: 2)
    assert side_by_side._share_threads(16, 5) == (2, 8)
    assert side_by_side._share_threads(1, 5) == (1, 1)
