"""Which socket is called: by flag, by instance, by environment, or the default."""

import pytest

from spiffe_core.runtime.cli.errors import CommandError
from spiffe_core.runtime.cli.places import Place

PLACE = Place(default="/d.sock", variable="SOCKET", template_variable="TEMPLATE")
VARIABLES = {"SOCKET": "/env.sock", "TEMPLATE": "/%i/t.sock"}


@pytest.mark.parametrize(
    ("socket_path", "instance", "environ", "expected"),
    [
        ("/d.sock", "", {}, "/d.sock"),
        ("/x.sock", "", {}, "/x.sock"),
        ("/x.sock", "", VARIABLES, "/x.sock"),
        ("/x.sock", "a", VARIABLES, "/x.sock"),
        ("/d.sock", "a", VARIABLES, "/a/t.sock"),
        ("/d.sock", "", VARIABLES, "/env.sock"),
        ("/d.sock", "", {"SOCKET": ""}, "/d.sock"),
        ("/d.sock", "", {"TEMPLATE": "/%i"}, "/d.sock"),
        ("/d.sock", "☃", {"TEMPLATE": "/%i/%i"}, "/☃/☃"),
        ("", "", VARIABLES, ""),
    ],
)
def test_the_flag_comes_before_the_instance_before_the_environment(socket_path, instance, environ, expected):
    assert PLACE.choose(socket_path, instance, environ) == expected


@pytest.mark.parametrize(
    ("environ", "complaint"),
    [
        ({}, "you must define TEMPLATE to use the instance flag"),
        ({"TEMPLATE": "/t.sock"}, "failed to find %i in TEMPLATE"),
    ],
)
@pytest.mark.parametrize("socket_path", ["/d.sock", "/x.sock"])
def test_an_instance_needs_a_template(socket_path, environ, complaint):
    with pytest.raises(CommandError) as caught:
        PLACE.choose(socket_path, "a", environ)
    assert caught.value.message == complaint


@pytest.mark.parametrize(
    ("there", "expected"), [([], "new"), (["new"], "new"), (["old"], "old"), (["new", "old"], "new")]
)
def test_the_socket_of_former_times_is_the_second_try(tmp_path, there, expected):
    place = Place(
        default=str(tmp_path / "new"),
        variable="SOCKET",
        template_variable="TEMPLATE",
        older_default=str(tmp_path / "old"),
    )
    for name in there:
        (tmp_path / name).touch()
    assert place.choose(place.default, "", {}) == str(tmp_path / expected)
    assert place.choose(place.default, "", {"SOCKET": "/env.sock"}) == "/env.sock"
