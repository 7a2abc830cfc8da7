"""Where each public data set is to be had, and on what terms: what a user reads who lacks a file of it."""

from dataclasses import dataclass
from pathlib import Path

from atspeed_core.errors import UserError
from atspeed_core.settings import PrepareData


@dataclass(frozen=True)
class Origin:
    """A data set that its users fetch themselves.

    Attributes:
        name: of the data set.
        files: what is needed of it.
        page: the official address, where terms and downloads are.
        terms: in a few words; the page has them in full.
    """

    name: str
    files: str
    page: str
    terms: str

    def __str__(self) -> str:
        """E.g. "Steam: reviews.json.gz from https://... (terms)"."""
        return f"{self.name}: {self.files} from {self.page} ({self.terms})"


RESEARCH = "for research, with citation; no licence to redistribute"
MOVIELENS_TERMS = "for research, with acknowledgement; no commercial use without permission"

MOVIELENS = [
    Origin(
        "MovieLens",
        "ratings.csv and movies.csv (20M, 25M, 32M, latest), ratings.dat and movies.dat (1M, 10M) or u.data and "
        "u.item (100K)",
        "https://grouplens.org/datasets/movielens/",
        MOVIELENS_TERMS,
    )
]
AMAZON = [
    Origin(
        "Amazon 2014",
        "reviews_CATEGORY_5.json.gz and meta_CATEGORY.json.gz",
        "https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html",
        RESEARCH,
    ),
    Origin(
        "Amazon 2018",
        "CATEGORY_5.json.gz and meta_CATEGORY.json.gz",
        "https://nijianmo.github.io/amazon/",
        RESEARCH,
    ),
    Origin(
        "Amazon 2023",
        "CATEGORY.jsonl.gz and meta_CATEGORY.jsonl.gz",
        "https://amazon-reviews-2023.github.io/",
        RESEARCH,
    ),
]
GOODREADS = [
    Origin(
        "Goodreads",
        "goodreads_interactions_GENRE.json.gz (with times; goodreads_interactions.csv and book_id_map.csv have none) "
        "and goodreads_books_GENRE.json.gz",
        "https://cseweb.ucsd.edu/~jmcauley/datasets/goodreads.html",
        "for academic use, with citation; no redistribution, no commercial use",
    )
]
STEAM = [
    Origin(
        "Steam",
        "steam_reviews.json.gz and steam_games.json.gz",
        "https://cseweb.ucsd.edu/~jmcauley/datasets.html#steam_data",
        RESEARCH,
    )
]
YELP = [
    Origin(
        "Yelp",
        "yelp_academic_dataset_review.json and yelp_academic_dataset_business.json",
        "https://business.yelp.com/data/resources/open-dataset/",
        "for academic use under Yelp's agreement; no redistribution",
    )
]
RECBOLE = [
    Origin(
        "RecBole",
        "NAME.inter and NAME.item",
        "https://recbole.io/dataset_list.html",
        "those of the data set itself",
    )
]
RELEASE = [
    Origin(
        "AtSpeed",
        "training_dict.npy, validation_dict.npy and testing_dict.npy",
        "https://github.com/Linxyhaha/AtSpeed",
        "no licence is stated; the Amazon reviews are for research, with citation",
    )
]
ORIGINS = {
    "movielens": MOVIELENS,
    "amazon": AMAZON,
    "goodreads": GOODREADS,
    "steam": STEAM,
    "yelp": YELP,
    "recbole": RECBOLE,
    "atspeed_release": RELEASE,
}


def located(path: Path, patterns: list[str], what: str, origins: list[Origin]) -> Path:
    """The one file that fits, `path` itself or in the folder `path`.

    Args:
        path: what the user named.
        patterns: of file names, as in glob.
        what: the file in words.
        origins: where it is to be had.

    Raises:
        UserError: there is none (the line says where to get it) or more than one.
    """
    if path.is_file():
        return path
    found = sorted({file for pattern in patterns for file in path.glob(pattern)})
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(file.name for file in found)
        raise UserError(f"{path}: several files of {what} ({names}); name one of them in prepare_data.path")
    where = "in it" if path.is_dir() else "there: no such file or folder"
    raise UserError(f"{path}: no {what} ({_any_of(patterns)}) {where}; {_remedy(origins)}")


def missing(path: Path, origins: list[Origin]) -> UserError:
    """The error for a file that is not there: which, where to get it, on what terms."""
    return UserError(f"{path}: no such file; {_remedy(origins)}")


def absent(settings: PrepareData) -> str | None:
    """What is not there and where to get it, when nothing is at `settings.path`; None when something is."""
    if Path(settings.path).exists():
        return None
    origins = ORIGINS.get(settings.source)
    return f"{settings.path}: not there; {_remedy(origins) if origins else 'set prepare_data.path'}"


def _any_of(patterns: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(patterns[:-1]), patterns[-1])))


def _remedy(origins: list[Origin]) -> str:
    return f"set prepare_data.path, or get {'; '.join(map(str, origins))}"
