"""Map the classes of ImageNet to words of captions.

A class is mapped to the last word of its name ("school bus" to "bus") if the vocabulary has that word; finely split
kinds such as dogs and birds are mapped by spans of class numbers. Applied to single cells, the classifier localises
classes with image-level labels only (Zhou et al., 2016, class activation maps).
"""

from __future__ import annotations

from collections.abc import Collection

# Spans of class numbers, both ends included; later lines override earlier ones and the class's name.
_KINDS: tuple[tuple[int, int, tuple[str, ...]], ...] = (
    (7, 24, ("bird",)),
    (80, 100, ("bird",)),
    (127, 146, ("bird",)),
    (151, 268, ("dog",)),
    (281, 285, ("cat",)),
    (294, 297, ("bear",)),
    (339, 339, ("horse",)),
    (345, 347, ("cow",)),
    (348, 349, ("sheep",)),
    (385, 386, ("elephant",)),
    (365, 384, ("monkey",)),
    (404, 404, ("airplane", "plane")),
    (895, 895, ("airplane", "plane")),
    (414, 414, ("backpack",)),
    (423, 423, ("chair",)),
    (559, 559, ("chair",)),
    (765, 765, ("chair",)),
    (440, 440, ("bottle",)),
    (898, 898, ("bottle",)),
    (907, 907, ("bottle", "wine")),
    (436, 436, ("car",)),
    (468, 468, ("car", "taxi")),
    (511, 511, ("car",)),
    (609, 609, ("car",)),
    (656, 656, ("car", "van")),
    (751, 751, ("car",)),
    (817, 817, ("car",)),
    (444, 444, ("bicycle", "bike")),
    (671, 671, ("bicycle", "bike")),
    (665, 665, ("motorcycle",)),
    (670, 670, ("motorcycle",)),
    (466, 466, ("train",)),
    (547, 547, ("train",)),
    (820, 820, ("train",)),
    (484, 484, ("boat",)),
    (554, 554, ("boat",)),
    (625, 625, ("boat",)),
    (814, 814, ("boat",)),
    (914, 914, ("boat",)),
    (487, 487, ("phone",)),
    (504, 504, ("cup", "mug")),
    (968, 968, ("cup",)),
    (664, 664, ("monitor", "screen")),
    (782, 782, ("screen",)),
    (851, 851, ("tv", "television")),
    (831, 831, ("couch", "sofa")),
    (850, 850, ("teddy", "bear")),
    (933, 933, ("sandwich", "burger")),
    (934, 934, ()),  # a hot dog is not "dog"
    (948, 948, ("apple",)),
    (981, 981, ("player", "baseball")),
    (429, 429, ("baseball",)),
    (748, 748, ("purse", "bag")),
    (636, 636, ("bag",)),
    (738, 738, ("plant", "pot")),
    (795, 795, ("ski", "skis")),
    (830, 830, ("stretcher",)),
    (896, 896, ("sink",)),
)

# Clothes and things that people hold: ImageNet has no class of persons, but these occur on persons.
_WORN = frozenset(
    (
        "abaya,academic gown,apron,ballplayer,bathing cap,bearskin,bikini,bolo tie,bonnet,bow tie,brassiere,"
        "breastplate,bulletproof vest,cardigan,cloak,clog,cowboy boot,cowboy hat,crash helmet,feather boa,"
        "football helmet,fur coat,gown,groom,hair slide,hoopskirt,jean,jersey,kimono,knee pad,lab coat,lipstick,"
        "Loafer,maillot,military uniform,miniskirt,mitten,mortarboard,neck brace,overskirt,pajama,poncho,"
        "running shoe,sandal,sarong,scuba diver,seat belt,shower cap,ski mask,sock,sombrero,stethoscope,stole,"
        "suit,sunglass,sunglasses,sweatshirt,swimming trunks,trench coat,vestment,wig,Windsor tie"
    ).split(",")
)


def imagenet_names() -> tuple[str, ...]:
    """Return the class names in the order of their numbers, from torchvision."""
    from torchvision.models import ResNet50_Weights

    return tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def words_of_classes(known: Collection[str]) -> tuple[tuple[str, ...], ...]:
    """Return the known words of each ImageNet class, possibly none.

    Args:
        known: the vocabulary.
    """
    names = imagenet_names()
    found: list[tuple[str, ...]] = [(name.lower().replace("-", " ").split()[-1],) for name in names]
    for first, last, words in _KINDS:
        found[first : last + 1] = [words] * (last + 1 - first)
    found = [(*words, "person") if name in _WORN else words for words, name in zip(found, names, strict=True)]
    return tuple(tuple(word for word in words if word in known) for words in found)
