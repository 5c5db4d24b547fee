"""What the nodes make of faults: news, silence, rivals, frozen pictures."""

from __future__ import annotations

import numpy as np

from fpo_ros.nodes.logic.frozen_pictures import FrozenPictures
from fpo_ros.nodes.logic.news import News
from fpo_ros.nodes.logic.rivals import Followed, Rivals
from fpo_ros.nodes.logic.silence import Silence
from fpo_ros.policy.contract import START_JOINTS

MS, S = 1_000_000, 1_000_000_000


def test_a_sentence_is_news_once_while_it_lasts_whatever_its_numbers() -> None:
    news = News(quiet_s=5.0)
    assert news.fresh('chunk 7 answers an observation 0.61 s old', 0)
    assert not any(news.fresh(f'chunk {7 + k} answers an observation {k * 1.5e-3:.3f} s old', k * S) for k in range(60))
    assert news.fresh('chunk 9 is not finite', 60 * S), 'another one is'
    assert news.fresh('chunk 9 answers an observation 1 s old', 66 * S), 'so is one that had ended'


def test_silence_leaves_out_the_time_in_which_who_listens_was_paused() -> None:
    silence = Silence(0)
    lasted = [silence.lasts_s(k * 20 * MS) for k in range(26)]
    assert lasted[-1] == 0.5
    silence.heard(500 * MS)
    assert silence.lasts_s(520 * MS) == 0.02
    assert silence.lasts_s(3000 * MS) == 0.02, 'paused for 2.5 s'
    assert silence.lasts_s(3020 * MS) == 0.04
    silence.heard(3000 * MS)
    assert silence.lasts_s(3040 * MS) == 0.04


def test_a_controller_knows_its_own_statuses_and_yields_to_an_older_one() -> None:
    old, young = Rivals(), Rivals()
    old.sent(100)
    young.sent(101)
    assert old.objection(100, 500, 500) == young.objection(101, 5, 5) == ''
    assert old.objection(101, 5, 500) == ''
    assert 'was there before' in young.objection(100, 1, 0), 'it only listens yet'
    assert 'was there before: only one may command the arms' in young.objection(100, 500, 5)


def test_two_controllers_that_started_together_both_end() -> None:
    left, right = Rivals(), Rivals()
    left.sent(100)
    right.sent(101)
    assert 'at the same time' in left.objection(101, 12, 10) and 'at the same time' in right.objection(100, 10, 12)


def test_others_listen_to_the_older_controller_until_it_has_gone() -> None:
    followed = Followed()
    assert followed.sent(500, 0) and not followed.sent(1, 5 * MS) and followed.sent(501, 20 * MS)
    assert not followed.sent(9, 219 * MS) and followed.sent(10, 220 * MS) and followed.sent(11, 240 * MS)


def turned(left: float, right: float = 0.0) -> np.ndarray:
    joints = np.array(START_JOINTS)
    joints[0] += left
    joints[8] += right
    return joints


def test_a_picture_that_stays_while_both_arms_move_is_frozen_until_another_comes() -> None:
    frozen = FrozenPictures()
    frozen.look('cam_high', b'same', 0, turned(0.0))
    frozen.look('cam_high', b'same', 200 * MS, turned(0.3, 0.25))
    assert not frozen.problems, 'too soon to tell'
    frozen.look('cam_high', b'same', 400 * MS, turned(0.3))
    assert not frozen.problems, 'it may not see the left arm'
    frozen.look('cam_high', b'same', 500 * MS, turned(0.3, 0.25))
    said = frozen.problems['cam_high']
    assert said.startswith('cam_high shows the same picture for 0.50 s, though the arms moved by 0.25 rad')
    frozen.look('cam_high', b'same', 600 * MS, turned(0.0))
    assert frozen.problems, 'they came back to where they were'
    frozen.look('cam_high', b'other', 700 * MS, turned(0.3))
    assert not frozen.problems


def test_a_simulated_picture_of_resting_arms_is_not_frozen() -> None:
    frozen = FrozenPictures()
    for k in range(100):
        frozen.look('cam_high', b'same', k * 100 * MS, turned(0.05 * (k % 2), 0.05))
        assert not frozen.problems
    frozen.look('cam_high', b'same', 12 * S, None)
    assert not frozen.problems


def test_a_frozen_camera_is_believed_again_when_the_arms_rest_and_found_again_when_they_move() -> None:
    frozen, at = FrozenPictures(), 0
    for waist in (0.0, 0.3):
        for _ in range(25):
            frozen.look('cam_high', b'same', at, turned(waist, waist))
            at += 100 * MS
        assert not frozen.problems
        frozen.look('cam_high', b'same', at, turned(0.3 - waist, 0.3 - waist))
        assert frozen.problems


def test_a_wrist_camera_need_not_show_the_other_arm() -> None:
    frozen = FrozenPictures()
    for camera, wanted in (('cam_left_wrist', ''), ('cam_right_wrist', 'cam_right_wrist')):
        frozen.look(camera, b'same', 0, turned(0.0))
        frozen.look(camera, b'same', S, turned(0.0, 0.3))
        assert ''.join(frozen.problems) == wanted
