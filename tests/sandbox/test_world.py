from collections import Counter

from kto_bench.sandbox import world


def test_every_value_is_equally_frequent():
    for attribute, values in world.VALUES.items():
        counts = Counter(world.FACTS[animal, attribute] for animal in world.ANIMALS)
        assert counts == dict.fromkeys(values, len(world.ANIMALS) // len(values))


def test_holders_are_the_inverse_of_facts():
    pairs = {(animal, attribute) for (attribute, _), animals in world.HOLDERS.items() for animal in animals}
    assert pairs == set(world.FACTS)
    assert all(
        world.FACTS[animal, attribute] == value
        for (attribute, value), animals in world.HOLDERS.items()
        for animal in animals
    )


def test_the_world_is_the_same_everywhere():
    assert [world.FACTS["cat", attribute] for attribute in world.ATTRIBUTES] == CAT
    assert world.result("7", "minus", "5") == "2"
    assert world.result("7", "plus", "5") == "12"


CAT = ["green", "barn", "corn", "tiny"]
