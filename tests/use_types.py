"""What a type checker sees of the package in the code of its users. `make check` reads it with
mypy --strict, where an ignored error that is none is an error; nobody runs it."""

from typing import assert_type

import datus

result = datus.mine("photos", clusters=[6, 8], settings={"seed": 1})
assert_type(result["a/b"].image_id, str)
assert_type([one.image_id for one in result[:3]], list[str])
assert_type(result.scores["majority"].miou, float)

datus.mine("photos", cluster=4)  # type: ignore[call-arg]  # an argument that is not there
print(datus.mined)  # type: ignore[attr-defined]  # a name that is not there
