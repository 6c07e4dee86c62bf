"""Reads OTLP export requests with the OpenTelemetry project's own classes, and prints them as JSON.

Arguments: triples of signal (logs, metrics, traces), content encoding (identity, gzip), and the file with the body.
Strict: what is not protobuf, not UTF-8 where it has to be, or holds a field that the schema does not know ends this with
an error. Trace and span ids are printed in hexadecimal; all else as protobuf's JSON mapping has it.
"""

import base64
import gzip
import json
import sys

from google.protobuf import json_format, unknown_fields
from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

REQUESTS = {
    "logs": ExportLogsServiceRequest,
    "metrics": ExportMetricsServiceRequest,
    "traces": ExportTraceServiceRequest,
}
ENCODINGS = {"identity": lambda body: body, "gzip": gzip.decompress}


def refuse_unknown_fields(message: Message) -> None:
    unknown = unknown_fields.UnknownFieldSet(message)
    if len(unknown) > 0:
        numbers = [field.field_number for field in unknown]
        raise ValueError(f"{message.DESCRIPTOR.full_name} has unknown fields {numbers}")
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for part in [value] if isinstance(value, Message) else value:
            refuse_unknown_fields(part)


def ids_in_hex(tree):
    if isinstance(tree, list):
        return [ids_in_hex(part) for part in tree]
    if not isinstance(tree, dict):
        return tree
    return {
        key: base64.b64decode(value).hex() if key in ("traceId", "spanId") else ids_in_hex(value)
        for key, value in tree.items()
    }


def decode(signal: str, encoding: str, path: str):
    with open(path, "rb") as file:
        body = ENCODINGS[encoding](file.read())
    request = REQUESTS[signal]()
    if request.ParseFromString(body) != len(body):
        raise ValueError(f"{path}: bytes are left over")
    refuse_unknown_fields(request)
    return ids_in_hex(json_format.MessageToDict(request))


if __name__ == "__main__":
    arguments = sys.argv[1:]
    json.dump([decode(*arguments[i : i + 3]) for i in range(0, len(arguments), 3)], sys.stdout)
