-- Commit n attempts of one position and claim m nodes behind them, or claim nodes alone (n = 0): store what each attempt
-- returned, exactly once, count their join and say what became ready; then give each node to one attempt, with one holder,
-- one token, and a token of each of its buckets. All of it is one step: what a commit writes, the claims see.
-- Where nothing is unusual, fast_claim.lua, fast_commit.lua or fast_items.lua does it and answers; else commit.lua,
-- commit_page.lua and claim.lua, one after the other. To make the library costs more than a claim.
-- KEYS    see keys.py, Keys.of_run, or the first seven, if the caller calls again with all of them for what is unusual; with a
--         message, 17 is the queue that it is pushed to
-- ARGV    What the plan and the process say: holder of the claims, lease in ms, which fast path may be taken ('nodes', 'local'
--         where one process works on what is behind, 'root' at the end of a run that may have children, 'items', or ''), position
--         of the commits (with none, of the claims), size: how many nodes are there (of a map: how many items may run at once),
--         position behind or '' if the fast path does not know it, how many commits, details ('1' if there are such of each
--         commit), how many claims, how many followers: the nodes to claim, or, with no claims, the one that a commit makes
--         ready; of each follower its name (of a map: any of its items) and timeout in ms.
--         Then run_id, epoch of the claims, how many output keys to send along (reads), arrived ('' if the caller of a claim
--         may sleep for a token that comes soon; else its first arrival in us, or '0'), follows ('1' if the caller, or Celery,
--         goes on with what is behind by itself), message ('<node> <text>' with '@since@' for the instant, pushed here if that
--         node alone is behind; or '').
--         Then the nodes that are committed; their tokens; of each its output key and output (JSON; '' if there is none); the
--         details of each: choice of a branch, or count of a map's items (that the caller has written to RUN:staged:<token>),
--         and of a page whose items the output is: how many they are, the cursor that came with them (JSON), '1' if there are
--         more; the token of each claim; the output keys (':input' is the run's input).
-- Returns nothing, and nothing is done, if more keys are needed; of the fast path a text. '' if all is stored and nothing is to be done; an instant in ms, since when what is
--         behind is to be published; or of claims: 'attempt generation scheduled index' of the first one (scheduled: instant
--         of the tick that started the run in ms; index of an item), a line with the length of each value (-1: there is none),
--         then the values, of an item the item.
--         Else a list: of each commit {outcome, what to publish...}, see commit.lua; of each claim {outcome, ...}, see
--         claim.lua; if one of those is held now, a list of the values. What such claims are about is not to be published.
-- TTL     none while the run lives; see finish.lua for its end. An identical second call stores nothing; it answers 'stored'
--         with what is still ready and unclaimed, and 'run' again for what these tokens hold.
-- include: keys
local holder, lease, fast_path, position, size, behind, commits, details, claims, followers = unpack(ARGV, 1, 10)
commits, claims, followers = tonumber(commits), tonumber(claims), tonumber(followers)
local FOLLOWERS_AT, RUN_AT = 10, 10 + 2 * followers
local RUN_ID, epoch, reads, arrived, follows, message = unpack(ARGV, RUN_AT + 1, RUN_AT + 6)
-- As transition.lua has it: nothing of the run was done in an epoch before.
local is_first = epoch == '1' or string.sub(epoch, -6) == '000001'
local message_node = message ~= '' and string.match(message, '^%S+')
-- Behind these arguments begin the nodes that are committed, their tokens, their outputs, details, tokens of claims, reads.
local NODES_AT, TOKENS_AT, OUTPUTS_AT, DETAILS_AT = RUN_AT + 6, RUN_AT + 6 + commits, RUN_AT + 6 + 2 * commits, RUN_AT + 6 + 4 * commits
local CLAIMS_AT = DETAILS_AT + (details == '1' and 4 * commits or 0)
local READS_AT = CLAIMS_AT + claims
-- include: fast_claim
-- include: fast_commit
-- include: fast_items
if #KEYS < 16 then
  return
end
-- include: transition
local is_granted = false

local function commit(node, token, output, choice, page_count, cursor)
  -- include: commit
end

local function commit_page(node, token, items, page_count, cursor)
  -- include: commit_page
end

local function claim(node, token)
  -- include: claim
end

local answers = {}
for number = 1, commits do
  local node, token, output = ARGV[NODES_AT + number], ARGV[TOKENS_AT + number], ARGV[OUTPUTS_AT + 2 * number]
  local choice, page_count, cursor, has_more = '', '', '', ''
  if details == '1' then
    choice, page_count, cursor, has_more = unpack(ARGV, DETAILS_AT + 4 * number - 3, DETAILS_AT + 4 * number)
  end
  if has_more == '1' then
    answers[number] = commit_page(node, token, output, page_count, cursor)
  else
    answers[number] = commit(node, token, output, choice, page_count, cursor)
  end
end
for number = 1, claims do
  answers[commits + number] = claim(ARGV[FOLLOWERS_AT + 2 * number - 1], ARGV[CLAIMS_AT + number])
end
flush()
if is_granted then
  for number = 1, commits do
    answers[number] = {answers[number][1]}
  end
  answers[commits + claims + 1] = reads ~= '0' and redis.call('HMGET', OUTPUTS, unpack(ARGV, READS_AT + 1, READS_AT + reads)) or {}
end
return answers
