"""Class names of standard image sets, in the order of the logits of published classifiers."""

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
    "imagenet": " ".join(SYNSETS),  # WordNet numbers, which name its folders
}


def names_of(option: str | None, count: int) -> tuple[str, ...]:
    """Return `count` class names: those of a standard set, those in a list with commas, or numbers without `option`.

    A checkpoint holds no names, so the user may give them. ValueError if their number differs.
    """
    if option is None:
        return tuple(str(k) for k in range(count))
    names = tuple(CLASSES[option].split() if option in CLASSES else (name.strip() for name in option.split(",")))
    if len(names) != count:
        raise ValueError(
            f"the classifier has {count} classes, but --classes gives {len(names)} names: give {count}, with commas "
            f"between them, or one of {', '.join(CLASSES)}"
        )
    return names
