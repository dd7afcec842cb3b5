"""How annotations are executed: as mypy reads them, so that an int will do where a float stands."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
