"""The requests and responses of the document this product was asked for with, copied from it.

Its `// ->` remarks are kept where they stand, and taken out on the way; the token, the host, the id in the last
path and what HTTP needs between head and body (a blank line, the length) are put in.
"""

from __future__ import annotations

import json
import re
import socket
from typing import Any

CREATE_LIST = """POST /dialer/call-lists HTTP/1.1
Host: ipbxapi.voipex.io
Authorization: Bearer {TOKEN}
Content-Type: application/json
{
"name": "call-list-name",
"numbers": [
{
"number": "123456789",
"attributes": []
}
]
}"""

LIST_CREATED = """{
"id": 1, // -> select and use in step #3
"message": "Call list successfully created",
"numbersCount": 1
}"""

GET_IVRS = """GET /ivr HTTP/1.1
Host: ipbxapi.voipex.io
Authorization: Bearer {TOKEN}"""

IVRS = """[
{
"id": "TUxw53xCBf", // -> select and use in step #3
"name": "IVR-app-name",
"description": "",
"createdAt": "...",
"updatedAt": "...",
"createdBy": {
"id": "...",
"email": "..."
},
"updatedBy": {
"id": "...",
"email": "..."
},
"routing": [
{
"exten": "...",
"ddi": "..."
}
]
}
]"""

CREATE_CAMPAIGN = """POST /dialer/campaigns HTTP/1.1
Host: ipbxapi.voipex.io
Authorization: Bearer {TOKEN}
Content-Type: application/json
{
"name": "campaign",
"callerId": "123456789",
"activePeriod": {
"startTime": "09:00",
"endTime": "17:00",
"weekDays": [1, 2, 3, 4, 5, 6, 7]
},
"callLists": [1], // -> id from step #1
"rescheduleRules": [
{
"status": "RS_ERROR",
"retryAfter": 15,
"maxAttempts": 1
}
],
"ivr": "TUxw53xCBf", // -> id from step #2
"endpoint": {
"type": "queue",
"boostFactor": 1.1,
"maxWaitingCalls": 2,
"queue": "green"
}
}"""

CAMPAIGN_CREATED = """{
"id": 1, // -> select and use in step #4
"message": "Campaign successfully created"
}"""

CONTROL = """PUT /dialer/campaigns/:id/control HTTP/1.1
Host: ipbxapi.voipex.io
Authorization: Bearer {TOKEN}
Content-Type: application/json
{
"command": "start"
}"""


def document(text: str) -> Any:
    """The JSON of a response, without the remarks."""
    return json.loads(_without_remarks(text))


def body(request: str) -> Any:
    """The JSON of a request."""
    return document("{" + request.partition("\n{")[2])


def send(request: str, address: tuple[str, int], token: str, *, id: int | None = None) -> tuple[int, Any]:
    """Over a plain socket; the status, and the JSON of the reply."""
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall(_wire(request, f"{address[0]}:{address[1]}", token, id))
        reply = b""
        while part := connection.recv(65536):
            reply += part
    head, _, body = reply.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def _wire(request: str, host: str, token: str, id: int | None) -> bytes:
    head, brace, rest = _without_remarks(request).partition("\n{")
    content = (brace + rest).strip()
    head = head.replace("ipbxapi.voipex.io", host).replace("{TOKEN}", token).replace(":id", str(id))
    lines = [*head.splitlines(), "Connection: close"]
    if content:
        lines.append(f"Content-Length: {len(content)}")
    return ("\r\n".join(lines) + "\r\n\r\n" + content).encode()


def _without_remarks(text: str) -> str:
    return re.sub(r" // ->.*", "", text)
