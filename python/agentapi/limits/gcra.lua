-- Decides about one request with all its limits: the generic cell rate algorithm as in rust/core/src/token_bucket.rs.
--
-- KEYS: a bucket for each limit. ARGV: the time in microseconds, or '' for the server's own; then for each limit the
-- interval in which a token comes back in microseconds, the burst, and the cost.
-- Returns for the request how it ended and how long it has to wait; then for each limit how it ended, what is left, how
-- long to wait, how long until the bucket is full. Times are microseconds; an end is 0 (allowed), 1 (refused) or 2
-- (the cost is more than the burst).
--
-- A bucket is two numbers: when it is full again, and the latest time it has seen. One that is full is not kept.
--
-- Lua counts in doubles, which hold every whole number up to 2^53. Nothing here exceeds it: the time of day in
-- microseconds does in the year 2255, and the core allows no bucket more than 366 days (2^45 microseconds) to become
-- full. A quotient of two such numbers is never rounded up to the next whole one, so its floor is exact.

-- How much longer than until it is full a bucket is kept, in milliseconds: for a clock that steps.
local GRACE_MS = 10000

local now
if ARGV[1] == '' then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
else
  now = tonumber(ARGV[1])
end

local function decide(interval, burst, cost, full_at, seen)
  local window = interval * burst
  local taken = math.max(full_at - seen, 0)
  local ended, wait = 0, 0
  if cost > burst then
    ended = 2
  else
    local wanted = taken + interval * cost
    if wanted > window then
      ended, wait = 1, wanted - window
    else
      taken, full_at = wanted, seen + wanted
    end
  end
  local left = math.floor(math.max(window - taken, 0) / interval)
  return { ended, left, wait, taken }, full_at
end

local buckets, each, untouched = {}, {}, {}
local ended, longest = 0, 0
for number, key in ipairs(KEYS) do
  local bucket = buckets[key]
  if bucket == nil then
    local held = redis.call('GET', key)
    local full_at, seen = string.match(held or '', '^(%d+) (%d+)$')
    full_at, seen = tonumber(full_at) or now, math.max(tonumber(seen) or now, now)
    if full_at <= seen then
      full_at, seen = now, now
    end
    bucket = { held = held, full_at = full_at, seen = seen, after = full_at }
    buckets[key] = bucket
  end
  local interval, burst = tonumber(ARGV[3 * number - 1]), tonumber(ARGV[3 * number])
  untouched[number] = decide(interval, burst, 0, bucket.full_at, bucket.seen)
  each[number], bucket.after = decide(interval, burst, tonumber(ARGV[3 * number + 1]), bucket.after, bucket.seen)
  ended, longest = math.max(ended, each[number][1]), math.max(longest, each[number][3])
end

for key, bucket in pairs(buckets) do
  -- A refusal takes nothing, but the bucket has seen the time.
  local full_at = ended == 0 and bucket.after or bucket.full_at
  if full_at > bucket.seen then
    local keep_ms = math.ceil((full_at - bucket.seen) / 1000) + GRACE_MS
    redis.call('SET', key, string.format('%.0f %.0f', full_at, bucket.seen), 'PX', string.format('%.0f', keep_ms))
  elseif bucket.held and ended ~= 0 then
    redis.call('DEL', key)
  end
end

local answer = { ended, ended == 1 and longest or 0 }
for number, decision in ipairs(each) do
  if ended ~= 0 then
    decision[2], decision[4] = untouched[number][2], untouched[number][4]
  end
  for _, value in ipairs(decision) do
    answer[#answer + 1] = value
  end
end
return answer
