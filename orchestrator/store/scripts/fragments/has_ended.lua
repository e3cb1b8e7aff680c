-- Whether a run that has this status has ended for good.
local function has_ended(status)
  return status == 'succeeded' or status == 'failed' or status == 'cancelled' or status == 'compensation_failed'
end
