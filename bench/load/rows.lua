-- wrk's script: every request carries the next row, and answers are counted by their text. Called by load/wrk.py, which
-- compares the counted answers with the right ones afterwards.
--
-- Arguments: file of request bodies (one per line), path, authorization header or "-", file for the counts.

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  local headers = { ["Content-Type"] = "application/json" }
  if args[3] ~= "-" then
    headers["Authorization"] = args[3]
  end
  requests = {}
  for line in io.lines(args[1]) do
    requests[#requests + 1] = wrk.format("POST", args[2], headers, line)
  end
  report = args[4]
  total = #requests
  sent = 0
  answers = {}
  failures = {}
end

function request()
  sent = sent + 1
  return requests[(sent - 1) % total + 1]
end

function response(status, headers, body)
  if status ~= 200 then
    failures[status] = (failures[status] or 0) + 1
    return
  end
  local start = string.find(body, '"predictions"', 1, true)
  local answer = string.sub(body, start or 1)
  answers[answer] = (answers[answer] or 0) + 1
end

function done(summary, latency, _)
  local out = io.open(threads[1]:get("report"), "w")
  local errors = summary.errors
  out:write(string.format("duration_us\t%d\n", summary.duration))
  out:write(string.format("requests\t%d\n", summary.requests))
  out:write(string.format("socket_errors\t%d\n", errors.connect + errors.read + errors.write + errors.timeout))
  for _, share in ipairs({ 50, 99, 99.9 }) do
    out:write(string.format("p%s_us\t%d\n", tostring(share), latency:percentile(share)))
  end
  for _, thread in ipairs(threads) do
    out:write(string.format("sent\t%d\n", thread:get("sent")))
    for status, count in pairs(thread:get("failures")) do
      out:write(string.format("status\t%d\t%d\n", status, count))
    end
    for answer, count in pairs(thread:get("answers")) do
      out:write(string.format("answer\t%d\t%s\n", count, answer))
    end
  end
  out:close()
end
