import torch
from torch.testing import assert_close

from meowtea.algorithms.groups import group_mean, group_std, informative_groups, mean_of_others

# Group 5 holds returns 3, 1, 2; group 2 holds 0 and 4; group 9 has one episode left.
RETURN = torch.tensor([3.0, 0.0, 1.0, 4.0, 2.0, 6.0])
GROUP = torch.tensor([5, 2, 5, 2, 5, 9])


def test_mean_and_standard_deviation():
    assert_close(group_mean(RETURN, GROUP), torch.tensor([2.0, 2.0, 2.0, 2.0, 2.0, 6.0]))
    # group 5: (1 + 1 + 0) / 2 = 1; group 2: (4 + 4) / 1 = 8; group 9: nothing to compare with
    assert_close(group_std(RETURN, GROUP), torch.tensor([1.0, 8.0**0.5, 1.0, 8.0**0.5, 1.0, 0.0]))


def test_mean_of_others():
    # of 3: (1 + 2) / 2; of 1: (3 + 2) / 2; of 2: (3 + 1) / 2; 0 and 4 have each other; 6 has only itself
    assert_close(mean_of_others(RETURN, GROUP), torch.tensor([1.5, 4.0, 2.5, 0.0, 2.0, 6.0]))


def test_informative_groups_come_in_ascending_order():
    assert informative_groups(RETURN, GROUP).tolist() == [True, True, False]  # groups 2, 5, 9


def test_rounding_is_not_information():
    sums = torch.tensor([0.1 + 0.2, 0.3, 0.3 + 1e-3, 0.3])
    assert informative_groups(sums, torch.tensor([0, 0, 1, 1])).tolist() == [False, True]


def test_no_groups():
    assert informative_groups(torch.tensor([]), torch.tensor([], dtype=torch.long)).tolist() == []
