"""Raises the priority of incidents that have waited too long."""

from tally import ToolError, call_tool


def run(input):
    raised, refused = [], {}
    for incident in input["incidents"]:
        if incident["age_h"] < input["limit_h"]:
            continue
        number = incident["number"]
        try:
            call_tool("servicenow.update_incident", number=number, priority=1)
            raised.append(number)
        except ToolError as error:
            refused[number] = error.code
    return {"raised": raised, "refused": refused}
