-- This instant as a text, and the record of a node that is ready (since, generation) and of one that runs (attempt,
-- generation, since, started, deadline, token, holder as JSON). All are texts: to format a number costs as much as a small
-- command. Uses NOW.
local instant = string.format('%d', NOW)
local READY = '{"state":"ready","attempt":0,"since":%s,"generation":%s}'
local RUNNING = '{"state":"running","attempt":%s,"generation":%s,"since":%s,"started":%s,"deadline":%s,"token":"%s","holder":%s}'
