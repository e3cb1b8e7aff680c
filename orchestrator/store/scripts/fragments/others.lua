-- Keys of another run and of the plan that it pins. Uses RUN, RUN_ID and PLAN.
local function run_of(id) return string.sub(RUN, 1, -#RUN_ID - 1) .. id end
local function plan_key(hash) return string.match(PLAN, '^(.*:)[^:]*$') .. hash end
