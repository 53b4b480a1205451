"""ONNX graphs run by ONNX Runtime: models that came as ONNX, and what `optimize` compiled.

A graph is data. It is judged before it runs (`onnx_model.py`: does it need code of someone's own; `onnx_external.py`: which files
are its own; `onnx_bounds.py`: may it run inside a worker), and ONNX Runtime gets bytes and arrays, never a path.

Options that `load` understands besides "file":
    feeds    [{"input": graph input, "block": number}] gives a whole block of the batch, [{"input": …, "field": name}] one field,
             [{"input": …, "fields": [name, …]}] numeric columns side by side; each with an optional "cast" to another float
             width. Without feeds, inputs are matched by name, or the one input takes all columns.
    fetches  [{"output": graph output, "field": name}]. Without fetches, outputs are matched by name.
    derive   [{"field": name, "argmax": name}]: the label of the largest probability, the first one of equals, out of the field's
             categories, or out of "classes" when they are given here.
    guards, refusal  which values the original takes (`guards.py`); the graph is not asked about others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from roadworthy.foundation.errors import InputRefused, PackageRefused, PackError
from roadworthy.frameworks.answers import as_array
from roadworthy.frameworks.framework import FormatMismatch, Loaded, ModelFiles, Nature, Preprocess, Saved, expect_only
from roadworthy.frameworks.guards import Guard
from roadworthy.frameworks.native import restore_for
from roadworthy.frameworks.onnx_bounds import isolation_reason
from roadworthy.frameworks.onnx_external import external_arrays, external_files
from roadworthy.frameworks.onnx_model import parse_model
from roadworthy.schema.batch import Array, Batch, Block, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.forms import library_of
from roadworthy.schema.signature import Field, Scalar, Signature
from roadworthy.schema.tables import answers_to_batch

MODEL_FILE = "model.onnx"
_DATA = Nature(carries_code=False, trust="data")
_ELEMENTS: dict[str, np.dtype[Any]] = {"tensor(float)": np.dtype(np.float32), "tensor(double)": np.dtype(np.float64)}

Feed = Callable[[Batch], Array]


class Onnx:
    """A ModelProto, or the path of an .onnx file."""

    name = "onnx"
    interface = 1
    suffixes = (".onnx",)

    def read_file(self, path: Path) -> Path:
        """The path itself."""
        return path

    def recognises(self, model: object) -> bool:
        """A ModelProto, or a Path to an .onnx file. Nothing is imported."""
        if isinstance(model, Path):
            return model.suffix == ".onnx"
        return type(model).__name__ == "ModelProto" and library_of(model) == "onnx"

    def answer(self, model: Any, rows: Any) -> Mapping[str, Array]:
        """Run the graph once; outputs keep their graph names."""
        session = _session(_read(model), 1)
        inputs = session.get_inputs()
        names = [output.name for output in session.get_outputs()]
        if library_of(rows) in ("pandas", "polars"):
            feeds = _frame_feeds(inputs, rows)
        elif len(inputs) == 1:
            feeds = {inputs[0].name: _cast_to(inputs[0], np.asarray(rows))}
        else:
            raise PackError(
                f"the graph has {len(inputs)} inputs",
                code="unsupported-model",
                hint=f"give a DataFrame with a column for each: {', '.join(i.name for i in inputs)}",
            )
        results = session.run(None, feeds)
        if any(isinstance(result, list) for result in results):
            raise PackError(
                "the graph answers a sequence of maps",
                code="unsupported-output",
                hint="convert the model with the option zipmap=False",
            )
        return {name: as_array(result) for name, result in zip(names, results, strict=True)}

    def categories(self, _model: Any) -> Mapping[str, Sequence[Scalar]]:
        """A graph does not tell its labels."""
        return {}

    def save(self, model: Any, folder: Path) -> Saved:
        """The graph's bytes, and the external files that hold its tensors."""
        graph = _read(model)
        for name, content in {**graph.external, MODEL_FILE: graph.data}.items():
            (folder / name).write_bytes(content)
        return Saved({"file": MODEL_FILE}, ("onnxruntime",), carries_code=_DATA.carries_code, trust=_DATA.trust)

    def examine(self, files: ModelFiles, options: Mapping[str, Any]) -> Nature:
        """Data, if it is a graph of ONNX Runtime's own operators, and the only other files hold its tensors."""
        graph = _graph(files, options)
        expect_only(files, [_file(options), *graph.external])
        return replace(_DATA, isolated=isolation_reason(graph.model, graph.size_bytes))

    def load(
        self,
        files: ModelFiles,
        options: Mapping[str, Any],
        signature: Signature,
        threads: int,
        preprocess: Preprocess | None,
    ) -> Loaded:
        """A session, with everything that a call needs looked up beforehand."""
        try:
            session = _session(_graph(files, options), threads)
            if preprocess is not None:
                return _Preprocessed(session, signature, preprocess)
            return _Session(session, options, signature)
        except FormatMismatch as error:
            raise _no_graph() from error
        except (KeyError, IndexError, ValueError, TypeError, OSError) as error:
            raise _refused() from error


@dataclass(frozen=True)
class _Graph:
    """A graph as it was read: its bytes, its messages, and the external files that hold tensors."""

    data: bytes
    model: Any
    external: Mapping[str, bytes]
    arrays: Mapping[str, Array]

    @property
    def size_bytes(self) -> int:
        return len(self.data) + sum(map(len, self.external.values()))

    @classmethod
    def of(cls, data: bytes, read: Callable[[str], bytes]) -> _Graph:
        """Reads what the graph in `data` names.

        Raises:
            FormatMismatch: it is no graph of ONNX Runtime's own operators, or a file is not what it says.
        """
        model = parse_model(data)
        external = {name: read(name) for name in external_files(model)}
        return cls(data, model, external, external_arrays(model, external.__getitem__))


def _graph(files: ModelFiles, options: Mapping[str, Any]) -> _Graph:
    names = set(files.names)

    def read(name: str) -> bytes:
        if name not in names:
            raise FormatMismatch(f"there is no file {name[:80]!r} of this runtime")
        return files.read(name)

    return _Graph.of(read(_file(options)), read)


def _file(options: Mapping[str, Any]) -> str:
    return str(options.get("file", MODEL_FILE))


def _read(model: Any) -> _Graph:
    """A live model: a ModelProto, or a Path with the external files in its folder.

    Raises:
        PackError: "unsupported-model".
    """

    def external(name: str) -> bytes:
        if not isinstance(model, Path):
            raise FormatMismatch(f"its tensors lie in the file {name!r}, which a ModelProto does not find")
        if name == MODEL_FILE:
            raise FormatMismatch(f"its tensors lie in a file that is called {MODEL_FILE}")
        return (model.parent / name).read_bytes()

    try:
        return _Graph.of(model.read_bytes() if isinstance(model, Path) else bytes(model.SerializeToString()), external)
    except FileNotFoundError as error:
        missing = Path(str(error.filename)).name
        raise PackError(
            f"the graph's tensors lie in the file {missing!r}, which is not in the graph's folder",
            code="unsupported-model",
            hint=f"put {missing} into the graph's folder, or write both anew: onnx.save(onnx.load(path), 'model.onnx')",
        ) from error
    except FormatMismatch as error:
        raise PackError(
            f"the ONNX graph cannot be packed: {error}",
            code="unsupported-model",
            hint="give the path of an .onnx file whose tensors lie in it or next to it, with ONNX Runtime's own operators",
        ) from error


def _no_graph() -> PackageRefused:
    return PackageRefused("the ONNX graph cannot be loaded", code="graph-invalid", hint="pack it again")


def _refused() -> PackageRefused:
    return PackageRefused(
        "the ONNX graph does not fit the package's signature",
        code="graph-mismatch",
        hint="pack the model again",
    )


def _session(graph: _Graph, threads: int) -> Any:
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise PackageRefused(
            "ONNX Runtime is not installed here",
            code="requirement-missing",
            hint='pip install "roadworthy[onnx]"',
            facts={"requirement": "onnxruntime"},
        ) from error
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4
    # Arenas and patterns keep memory for the largest batch ever seen; small graphs gain nothing from them.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        tensors = [ort.OrtValue.ortvalue_from_numpy(array) for array in graph.arrays.values()]
        if tensors:
            options.add_external_initializers(list(graph.arrays), tensors)
        session = ort.InferenceSession(graph.data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises classes of its own extension module for any fault in the bytes
        raise _no_graph() from error
    session.tensors = tensors  # it points into them
    return session


def _cast_to(graph_input: Any, values: Array) -> Array:
    wanted = _ELEMENTS.get(graph_input.type)
    return values.astype(wanted) if wanted is not None and values.dtype.kind in "iuf" else values


def _frame_feeds(inputs: Sequence[Any], frame: Any) -> dict[str, Array]:
    names = [str(column) for column in frame.columns]
    if len(inputs) == 1 and inputs[0].name not in names:
        return {inputs[0].name: _cast_to(inputs[0], frame.to_numpy())}
    missing = [graph_input.name for graph_input in inputs if graph_input.name not in names]
    if missing:
        raise PackError(
            f"the sample has no columns for the graph's inputs {', '.join(missing)}",
            code="unsupported-model",
            hint="name the columns as the graph names its inputs",
        )
    return {i.name: _in_rank(i, _cast_to(i, frame[i.name].to_numpy())) for i in inputs}


def _in_rank(graph_input: Any, values: Array) -> Array:
    """A column as (rows,) or (rows, 1), as the graph wants it."""
    return values.reshape(-1, 1) if values.ndim == 1 and len(graph_input.shape) == 2 else values


class _Session:
    """A graph that takes the batch's arrays as they lie."""

    concurrent = True

    def __init__(self, session: Any, options: Mapping[str, Any], signature: Signature) -> None:
        self._run = session.run
        inputs, self._outputs = Layout(signature.inputs), Layout(signature.outputs)
        graph_inputs = {graph_input.name: graph_input for graph_input in session.get_inputs()}
        feeds = options.get("feeds") or _default_feeds(graph_inputs, inputs)
        self._feeds = [(str(f["input"]), _feed(f, graph_inputs[f["input"]], inputs)) for f in feeds]
        derived = {str(d["field"]): d for d in options.get("derive", ())}
        fetches = options.get("fetches") or [
            {"output": f.name, "field": f.name} for f in signature.outputs if f.name not in derived
        ]
        self._fetched = [str(fetch["output"]) for fetch in fetches]
        known = {output.name for output in session.get_outputs()}
        if not known.issuperset(self._fetched):
            raise ValueError("an output is missing from the graph")
        places = {str(fetch["field"]): number for number, fetch in enumerate(fetches)}
        self._makers = [_maker(field, places, derived.get(field.name)) for field in signature.outputs]
        self._forms = [(form.tensor, form.fields) for form in self._outputs.blocks]
        self._gaps = any(field.nullable for field in signature.outputs)
        self._guard = Guard(options, inputs) if options.get("guards") else None

    def run(self, batch: Batch) -> Batch:
        """Answer all rows, in order.

        Raises:
            InputRefused: the original takes no such value.
        """
        if self._guard is not None:
            self._guard.check(batch)
        results = self._run(self._fetched, {name: feed(batch) for name, feed in self._feeds})
        rows = batch.rows
        columns = [make(results) for make in self._makers]
        if self._gaps:
            names = self._outputs.positions
            return answers_to_batch(self._outputs, dict(zip(names, columns, strict=True)), rows)
        blocks = []
        for tensor, positions in self._forms:
            if tensor:
                blocks.append(Block(columns[positions[0]]))
            elif len(positions) == 1:
                blocks.append(Block(columns[positions[0]].reshape(rows, 1)))
            else:
                blocks.append(Block(np.stack([columns[p].reshape(rows) for p in positions], axis=1)))
        return Batch(self._outputs, rows, tuple(blocks))

    def close(self) -> None:
        """Let go of the session."""
        self._run = None


def _default_feeds(graph_inputs: Mapping[str, Any], layout: Layout) -> list[dict[str, Any]]:
    if all(name in layout.positions for name in graph_inputs):
        return [{"input": name, "field": name} for name in graph_inputs]
    if len(graph_inputs) == 1 and len(layout.blocks) == 1:
        return [{"input": next(iter(graph_inputs)), "block": 0}]
    if len(graph_inputs) == 1 and all(field.dtype.is_numeric and not field.shape for field in layout.fields):
        return [{"input": next(iter(graph_inputs)), "fields": list(layout.positions)}]
    raise ValueError("the graph's inputs have other names than the columns")


def _feed(feed: Mapping[str, Any], graph_input: Any, layout: Layout) -> Feed:
    """How one graph input is taken from a batch: a function that only slices, and casts where the graph is of another width."""
    if "fields" in feed:
        positions = [layout.positions[str(name)] for name in feed["fields"]]
        return _stacking(positions, np.dtype(feed.get("cast", _ELEMENTS[graph_input.type])))
    if "block" in feed:
        number = int(feed["block"])
        form = layout.blocks[number]
        fields = [layout.fields[position] for position in form.fields]
        take = _block_taker(number)
    else:
        position = layout.positions[str(feed["field"])]
        fields = [layout.fields[position]]
        take = _field_taker(position, rank_2=not fields[0].shape and len(graph_input.shape) == 2)
    dtype = fields[0].dtype
    nullable = any(field.nullable for field in fields)
    if nullable and not dtype.is_float:
        raise ValueError("a graph takes no nulls but NaN")
    wanted = np.dtype(feed["cast"]) if "cast" in feed else _ELEMENTS.get(graph_input.type, dtype.numpy)
    if not nullable and (wanted == dtype.numpy or not dtype.is_numeric):
        return lambda batch: take(batch)[0]
    return _casting(take, wanted)


def _block_taker(number: int) -> Callable[[Batch], tuple[Array, Array | None]]:
    def take(batch: Batch) -> tuple[Array, Array | None]:
        block = batch.blocks[number]
        return block.values, block.mask

    return take


def _field_taker(position: int, *, rank_2: bool) -> Callable[[Batch], tuple[Array, Array | None]]:
    def take(batch: Batch) -> tuple[Array, Array | None]:
        values, mask = batch.column_at(position)
        values = np.ascontiguousarray(values)
        return (values.reshape(-1, 1), None if mask is None else mask.reshape(-1, 1)) if rank_2 else (values, mask)

    return take


def _stacking(positions: Sequence[int], wanted: np.dtype[Any]) -> Feed:
    """Columns of several types as one matrix, by way of float64, as pandas makes one of them."""

    def feed(batch: Batch) -> Array:
        matrix = np.empty((batch.rows, len(positions)), dtype=np.float64)
        for place, position in enumerate(positions):
            values, mask = batch.column_at(position)
            matrix[:, place] = values
            if mask is not None:
                matrix[mask, place] = np.nan
        return _cast(matrix, wanted)

    return feed


def _casting(take: Callable[[Batch], tuple[Array, Array | None]], wanted: np.dtype[Any]) -> Feed:
    def feed(batch: Batch) -> Array:
        values, mask = take(batch)
        cast = _cast(values, wanted)
        if mask is not None:
            cast = cast.copy() if cast is values else cast
            cast[mask] = np.nan
        return cast

    return feed


def _cast(values: Array, wanted: np.dtype[Any]) -> Array:
    """`values` in another width of float.

    Raises:
        InputRefused: a value is too large for it. The graph would be asked about an infinity instead.
    """
    if values.dtype == wanted:
        return values
    with np.errstate(over="ignore"):
        cast: Array = values.astype(wanted)
    if values.dtype == np.float64 and (infinite := np.isinf(cast) & np.isfinite(values)).any():
        row, *_ = np.argwhere(infinite)[0].tolist()
        value = values[infinite].flat[0].item()
        raise InputRefused(
            f"the model takes {wanted.name}, which cannot hold {value!r} (row {row})",
            hint=f"send values up to {np.finfo(np.float32).max:g}",
            facts={"fields": [{"row": row, "code": InputRefused.code}]},
        )
    return cast


def _maker(field: Field, places: Mapping[str, int], derive: Mapping[str, Any] | None) -> Callable[[list[Any]], Array]:
    if derive is not None:
        source = places[str(derive["argmax"])]
        labels = derive.get("classes", field.categories)
        if not labels:
            raise ValueError("a derived label has no classes")
        classes = np.array(list(labels), dtype=field.dtype.numpy)
        return lambda results: classes[results[source].argmax(axis=1)]
    place, wanted = places[field.name], field.dtype.numpy
    shape = field.shape

    def make(results: list[Any]) -> Array:
        values: Array = results[place]
        if values.dtype != wanted and field.dtype is not DType.STRING:
            values = values.astype(wanted)
        return values if values.ndim == len(shape) + 1 else values.reshape(values.shape[0], *shape)

    return make


class _Preprocessed:
    """A graph behind the user's Python preprocessing: runs on the version's own thread."""

    concurrent = False

    def __init__(self, session: Any, signature: Signature, preprocess: Preprocess) -> None:
        self._session = session
        self._restore = restore_for(signature)
        self._outputs = Layout(signature.outputs)
        self._preprocess = preprocess

    def run(self, batch: Batch) -> Batch:
        """Answer all rows, in order."""
        rows = self._preprocess(self._restore(batch))
        inputs = self._session.get_inputs()
        if library_of(rows) in ("pandas", "polars"):
            feeds = _frame_feeds(inputs, rows)
        else:
            feeds = {inputs[0].name: _cast_to(inputs[0], np.asarray(rows))}
        names = [output.name for output in self._session.get_outputs()]
        results = self._session.run(names, feeds)
        return answers_to_batch(self._outputs, dict(zip(names, results, strict=True)), batch.rows)

    def close(self) -> None:
        """Let go of the session."""
        self._session = None


FRAMEWORK = Onnx()
