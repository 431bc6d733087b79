"""How workers share the cores of their hosts."""

import pytest

from rlvr.loop.places import cores_of


@pytest.mark.parametrize(
    ("workers", "hosts", "cores", "shares"),
    [
        (1, 1, 2, [(0, 1)]),
        (2, 1, 2, [(0,), (1,)]),
        (3, 1, 2, [(0, 1)] * 3),
        (2, 2, 2, [(0, 1), (0, 1)]),
        (3, 2, 2, [(0,), (0, 1), (1,)]),
        (4, 2, 4, [(0, 2), (0, 2), (1, 3), (1, 3)]),
    ],
)
def test_the_workers_of_a_host_share_its_cores(
    workers: int, hosts: int, cores: int, shares: list[tuple[int, ...]]
) -> None:
    found = [cores_of(i, workers=workers, hosts=hosts, cores=range(cores)) for i in range(workers)]
    assert found == shares


@pytest.mark.parametrize(
    ("workers", "hosts", "cores", "shares"),
    [
        (1, 1, 1, [(0,)]),
        (1, 1, 2, [(0,)]),
        (2, 1, 2, [(0,), (1,)]),
        (3, 1, 2, [(0, 1)] * 3),
        (1, 1, 5, [(0, 1, 2)]),
        (2, 1, 8, [(0, 2), (1, 3)]),
        (2, 2, 4, [(0, 1), (0, 1, 2, 3)]),
    ],
)
def test_beside_a_learner_they_have_half(workers: int, hosts: int, cores: int, shares: list[tuple[int, ...]]) -> None:
    found = [cores_of(i, workers=workers, hosts=hosts, cores=range(cores), beside_learner=True) for i in range(workers)]
    assert found == shares
