-- The score of a run's next look: its instant, and in the fraction how often it was looked at while nothing of it was ready or
-- ran, each time after twice as long, at most after 10 minutes. Uses NOW.
local SEEN_AT_REST, LONGEST_MS = 16, 600000
local function look_after(ms, times) return string.format('%.5f', math.floor(NOW + ms) + times / SEEN_AT_REST) end
local function look_at_rest(due)
  local times = math.min(math.floor(due % 1 * SEEN_AT_REST) + 1, SEEN_AT_REST - 1)
  return look_after(math.min(1000 * 2 ^ times, LONGEST_MS), times)
end
