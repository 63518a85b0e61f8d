"""Every rule against its slow twin, written from Caffe's formulas one value at a time."""

import math

import numpy as np
import pytest
import torch
from caffe.updates import RULES, Settings

SETTINGS = Settings(momentum=0.9, momentum2=0.99, rms_decay=0.95, delta=1e-3)


def sgd(g, h, rate, s):
    return (v := s.momentum * h[0] + rate * g), [v]


def nesterov(g, h, rate, s):
    v = s.momentum * h[0] + rate * g
    return (1 + s.momentum) * v - s.momentum * h[0], [v]


def adagrad(g, h, rate, s):
    total = h[0] + g * g
    return rate * g / (math.sqrt(total) + s.delta), [total]


def rmsprop(g, h, rate, s):
    mean = s.rms_decay * h[0] + (1 - s.rms_decay) * g * g
    return rate * g / (math.sqrt(mean) + s.delta), [mean]


def adadelta(g, h, rate, s):
    mean = s.momentum * h[0] + (1 - s.momentum) * g * g
    step = g * math.sqrt((h[1] + s.delta) / (mean + s.delta))
    return rate * step, [mean, s.momentum * h[1] + (1 - s.momentum) * step * step]


def adam(g, h, rate, s):
    m = s.momentum * h[0] + (1 - s.momentum) * g
    v = s.momentum2 * h[1] + (1 - s.momentum2) * g * g
    return rate * m / (math.sqrt(v) + s.delta), [m, v]


TWINS = {
    "SGD": sgd,
    "Nesterov": nesterov,
    "AdaGrad": adagrad,
    "RMSProp": rmsprop,
    "AdaDelta": adadelta,
    "Adam": adam,
}


@pytest.mark.parametrize("name", RULES)
def test_rule_agrees_with_its_twin(name):
    rule, generator = RULES[name], np.random.default_rng(0)
    history = [torch.zeros(5) for _ in range(rule.num_histories)]
    slow = [[0.0] * rule.num_histories for _ in range(5)]
    for _ in range(20):
        gradient = generator.normal(size=5).astype(np.float32)
        update = torch.from_numpy(gradient.copy())
        rule.apply(update, history, 0.1, SETTINGS)
        for place in range(5):
            expected, slow[place] = TWINS[name](float(gradient[place]), slow[place], 0.1, SETTINGS)
            assert float(update[place]) == pytest.approx(expected, rel=1e-4, abs=1e-6)
            for values, value in zip(history, slow[place], strict=True):
                assert float(values[place]) == pytest.approx(value, rel=1e-4, abs=1e-6)
