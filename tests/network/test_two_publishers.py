"""Two nodes put the same file at once: both are told the truth, and either may leave."""

from functools import partial

from tests.network.crowd import PLACE_S, Crowd, Member, got
from tests.node.process import body_of, until

SIZE = 2_600_000


def test_two_nodes_put_one_file_at_once_one_removes_it_and_one_is_killed(crowd: Crowd) -> None:
    body, pair = body_of(77, SIZE), [crowd.nodes[1], crowd.nodes[9]]

    def put(node: Member) -> str:
        return node.client().put(body)

    cids = crowd.each(pair, put)
    assert len(set(cids)) == 1
    cid = cids[0]
    for node in pair:
        until(partial(_is_safe, node, cid), "it is not placed", within_s=PLACE_S)
    pair[0].client().delete(cid)
    pair[1].kill()
    try:
        assert set(crowd.each(crowd.up(), partial(got, cid))) == {body}
    finally:
        crowd.revive()


def _is_safe(node: Member, cid: str) -> bool:
    if node.survives(cid) >= 4:
        return True
    node.client().put(body_of(77, SIZE))  # that looks for more holders
    return False
