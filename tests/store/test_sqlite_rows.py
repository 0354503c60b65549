import json
import sqlite3
from contextlib import closing

from hypothesis import given
from hypothesis import strategies as st


@given(st.lists(st.floats(allow_nan=False), min_size=1))
def test_numbers_that_sqlite_quotes_are_read_exactly(numbers: list[float]) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE numbers (number REAL)")
        connection.executemany("INSERT INTO numbers VALUES (?)", [(number,) for number in numbers])
        (quoted,) = connection.execute("SELECT json_group_array(quote(number)) FROM numbers").fetchone()

    assert [float(text) for text in json.loads(quoted)] == numbers
