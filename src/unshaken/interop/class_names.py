"""Class names of standard image sets, in the order of a published classifier's outputs."""

from __future__ import annotations

from unshaken.data.synsets import SYNSETS

CLASSES = {
    "cifar10": "airplane automobile bird cat deer dog frog horse ship truck",
    "cifar100": (
        "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can "
        "castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin "
        "elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster "
        "man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck "
        "pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk "
        "skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger "
        "tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
    ),
    "stl10": "airplane bird car cat deer dog horse monkey ship truck",
    "imagenet": " ".join(SYNSETS),
}


def names_of(given: str | None, count: int) -> tuple[str, ...]:
    """Return `count` class names: of a standard set, from a list with commas, or numbers if `given` is None.

    The names come from the user, because a checkpoint does not hold them.
    """
    if given is None:
        return tuple(str(k) for k in range(count))
    names = tuple(CLASSES[given].split() if given in CLASSES else (name.strip() for name in given.split(",")))
    if len(names) != count:
        raise ValueError(
            f"the classifier has {count} classes, but --classes {given[:40]} names {len(names)}: "
            f"it must be one of {', '.join(CLASSES)}, or {count} names with commas between them"
        )
    return names
