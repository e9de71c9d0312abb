-- Forwards chest radiographs from Orthanc to radclipd and retries failed store jobs. Orthanc 1.10 and newer.
--
-- * A stable study: its CR and DX instances are sent to the modality "radclipd", each once; then the readers' reports (SR) and key
--   objects (KO) of the same study, which may hold labels. Objects made by radclipd are never sent.
-- * A failed store job is retried with back-off until it succeeds. Orthanc itself does not retry.
-- * Where radclipd refuses an instance, those of its study are sent singly from then on: a refused one holds back no other.
-- * The forwarded instances, and those refused for good, are recorded in the study's metadata: a report that comes back sends nothing,
--   and a new instance is sent alone.
--
-- Callbacks of the same names in scripts loaded earlier still run.

local MODALITY = 'radclipd'         -- symbolic name in "DicomModalities"
local RADIOGRAPHY = { CR = true, DX = true }
local DOCUMENTS = { SR = true, KO = true }
-- Metadata of a study: Orthanc identifiers of the instances that radclipd has, and of those that it has refused for good.
local FORWARDED = { number = '4711', name = 'RadclipdForwarded' }
local REFUSED = { number = '4712', name = 'RadclipdRefused' }
local settings = GetOrthancConfiguration().Radclipd or {}
local FIRST_WAIT = settings.FirstWait or 10       -- seconds before the first retry; doubles up to
local LONGEST_WAIT = settings.LongestWait or 600
local WITH_DOCUMENTS = settings.Documents ~= false
local MOST_REFUSALS = settings.MostRefusals or 20 -- of one instance by a running radclipd; then it is left for a person
local CHANGES_AT_START = 4000       -- changes that a starting Orthanc searches for unfinished studies
local JOB_TIME = 3600               -- seconds without a result after which a job counts as lost

local pending = {}                  -- study -> { busy_until, refusals, singly, refused: instance -> number of refusals }
local wait = FIRST_WAIT
local next_try = 0
local timer = nil                   -- the study that a waiting shell will send

local function get(path)
  local answer = RestApiGet(path)
  return answer and ParseJson(answer)
end

local function log(message)
  print('radclipd: ' .. message)
end

-- Selection of instances ---------------------------------------------------------------------------------------------------

-- Returns the recorded identifiers as a set, and whether anything was recorded.
local function read_recorded(study, record)
  local known, ids = false, {}
  for _, name in ipairs(get('/studies/' .. study .. '/metadata') or {}) do
    known = known or name == record.number or name == record.name
  end
  if known then
    for id in string.gmatch(RestApiGet('/studies/' .. study .. '/metadata/' .. record.number), '[%x-]+') do ids[id] = true end
  end
  return ids, known
end

local function record_instances(study, record, instances)
  local ids = read_recorded(study, record)
  for _, id in ipairs(instances) do ids[id] = true end
  local list = {}
  for id in pairs(ids) do table.insert(list, id) end
  RestApiPut('/studies/' .. study .. '/metadata/' .. record.number, table.concat(list, ' ') .. ' ')
end

local function made_by_radclipd(image)
  local tags = get('/instances/' .. image .. '/tags?simplify') or {}
  return tags.ManufacturerModelName == 'radclipd'
end

-- Images first: a refused document ends the job and must not hold back an image.
local function find_unsent(study)
  local chosen, ids, radiographs = {}, read_recorded(study, FORWARDED), 0
  for id in pairs(read_recorded(study, REFUSED)) do ids[id] = true end
  local all_series = get('/studies/' .. study .. '/series') or {}
  local function choose(modalities)
    for _, series in ipairs(all_series) do
      if modalities[series.MainDicomTags.Modality] then
        for _, instance in ipairs(series.Instances) do
          if not ids[instance] and not made_by_radclipd(instance) then table.insert(chosen, instance) end
        end
      end
    end
  end
  for _, series in ipairs(all_series) do
    if RADIOGRAPHY[series.MainDicomTags.Modality] then radiographs = radiographs + 1 end
  end
  choose(RADIOGRAPHY)
  if WITH_DOCUMENTS and radiographs > 0 then choose(DOCUMENTS) end
  return chosen
end

-- Sending ------------------------------------------------------------------------------------------------------------------

local function store_request(images)
  return DumpJson({ Resources = images, Asynchronous = true }, true)
end

local function get_state(study)
  pending[study] = pending[study] or { busy_until = 0, refusals = 0, singly = false, refused = {} }
  return pending[study]
end

-- All unsent instances; after a refusal one of those that were refused least often.
local function choose_next(study, state)
  local unsent = find_unsent(study)
  if not state.singly then return unsent end
  local chosen = nil
  for _, id in ipairs(unsent) do
    if not chosen or (state.refused[id] or 0) < (state.refused[chosen] or 0) then chosen = id end
  end
  return { chosen }
end

local function forward(study)
  local state = get_state(study)
  if state.busy_until > os.time() then return end
  local images = choose_next(study, state)
  if #images == 0 then
    pending[study] = nil
    return
  end
  state.busy_until = os.time() + JOB_TIME
  local _, tried = read_recorded(study, FORWARDED)
  if not tried then record_instances(study, FORWARDED, {}) end -- marks the study as begun, for a restarted Orthanc
  RestApiPost('/modalities/' .. MODALITY .. '/store', store_request(images))
end

local function find_least_refused()
  local found = nil
  for study, state in pairs(pending) do
    if state.busy_until <= os.time() and (not found or state.refusals < pending[found].refusals) then found = study end
  end
  return found
end

-- Retries ------------------------------------------------------------------------------------------------------------------
-- Orthanc 1.11.1 and newer have a heartbeat for scripts (LuaHeartBeatPeriod). For older releases a waiting shell asks Orthanc, by
-- its REST API, to send one pending study; the end of that job runs this script again. One shell at a time, and only while a study
-- is pending.

local function has_heartbeat(config)
  local major, minor, patch = string.match(get('/system').Version, '(%d+)%.(%d+)%.(%d+)')
  local version = major and major * 1000000 + minor * 1000 + patch or math.huge -- "mainline" has no number
  return version >= 1011001 and (config.LuaHeartBeatPeriod or 0) > 0
end

local function quote(text)
  return '"' .. string.gsub(text, '[\\"]', '\\%0') .. '"'
end

local function curl_request(config, images)
  local scheme = config.SslEnabled and 'https' or 'http'
  local lines = {
    'url = ' .. quote(scheme .. '://127.0.0.1:' .. math.floor(config.HttpPort or 8042) .. '/modalities/' .. MODALITY .. '/store'),
    'data = ' .. quote(store_request(images)),
  }
  for name, password in pairs(config.RegisteredUsers or {}) do
    table.insert(lines, 'user = ' .. quote(name .. ':' .. password))
    break
  end
  if config.SslEnabled then table.insert(lines, 'insecure') end
  return table.concat(lines, '\n') .. '\n'
end

local function start_timer(seconds)
  local config = GetOrthancConfiguration()
  local waiting = timer and pending[timer] and pending[timer].busy_until > os.time()
  if waiting or has_heartbeat(config) then return end
  local study = find_least_refused()
  if not study then return end
  -- The request goes through standard input, so no password shows in a process list; the shell closes Orthanc's sockets.
  local shell = io.popen('exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-; request=$(cat); (sleep ' .. math.floor(seconds)
    .. '; printf "%s\\n" "$request" | curl --silent --max-time 60 --config -) >/dev/null 2>&1 &', 'w')
  if not shell then
    log('cannot start a shell: failed studies are retried with the next stable study')
    return
  end
  shell:write(curl_request(config, choose_next(study, pending[study])))
  shell:close()
  timer = study
  pending[study].busy_until = os.time() + seconds + 90 -- no result by then: the shell or curl is missing
end

local function schedule_retry()
  if os.time() < next_try then return end -- many jobs fail at once; one back-off is enough
  next_try = os.time() + wait
  start_timer(wait)
  wait = math.min(2 * wait, LONGEST_WAIT)
end

local function forward_all_pending()
  local studies = {}
  for study in pairs(pending) do table.insert(studies, study) end
  for _, study in ipairs(studies) do forward(study) end
end

-- Callbacks of Orthanc -----------------------------------------------------------------------------------------------------

-- Returns the job, its study and its instances; nothing for the job of another modality.
local function our_job(id)
  local job = get('/jobs/' .. id)
  if not job or job.Type ~= 'DicomModalityStore' then return end
  local modality = get('/modalities/' .. MODALITY .. '/configuration')
  if not modality or job.Content.RemoteAet ~= modality.AET then return end
  local images = job.Content.ParentResources or {}
  local parent = images[1] and get('/instances/' .. images[1] .. '/study') -- nothing for a study that a user sent as a whole
  if parent then return job, parent.ID, images end
end

local function on_success(id)
  local job, study, images = our_job(id)
  if not job then return end
  record_instances(study, FORWARDED, images)
  get_state(study).busy_until = 0
  wait, next_try = FIRST_WAIT, 0
  forward(study) -- the next one, or instances that came while the job ran
  forward_all_pending()
end

-- An unreachable radclipd, or one without disk space, does not count as a refusal of the study.
local function is_unreachable(details)
  return string.find(details, 'connecting to AET', 1, true) or string.find(details, 'status 0xA7', 1, true)
end

-- Counts the refusal of a job. Returns whether another instance of the study, not refused yet, is to be sent at once.
local function count_refusal(study, images, details)
  local state = get_state(study)
  state.refusals = state.refusals + 1
  state.singly = true
  if #images > 1 then return true end -- which of them was refused shows when they are sent singly
  local image = images[1]
  state.refused[image] = (state.refused[image] or 0) + 1
  if state.refused[image] >= MOST_REFUSALS then
    record_instances(study, REFUSED, images)
    log('instance ' .. image .. ' was refused ' .. MOST_REFUSALS .. ' times and is not retried: ' .. details)
  end
  local following = choose_next(study, state)[1]
  return not following or not state.refused[following]
end

local function on_failure(id)
  local job, study, images = our_job(id)
  if not job then return end
  get_state(study).busy_until = 0
  local details = job.ErrorDetails or ''
  if not is_unreachable(details) and count_refusal(study, images, details) then forward(study) end
  if next(pending) then schedule_retry() end
end

local function on_heartbeat()
  local study = os.time() >= next_try and find_least_refused()
  if study then forward(study) end
end

-- Forwards studies whose transfer had begun, or that were not yet stable, when Orthanc last stopped.
local function resume()
  local last = get('/changes?last').Last or 0
  local changes = get('/changes?since=' .. math.max(0, math.floor(last) - CHANGES_AT_START) .. '&limit=' .. CHANGES_AT_START)
  local stable = {}
  for _, change in ipairs(changes.Changes) do
    if change.ChangeType == 'NewStudy' then stable[change.ID] = false end
    if change.ChangeType == 'StableStudy' then stable[change.ID] = true end
    if change.ChangeType == 'Deleted' then stable[change.ID] = nil end
  end
  for study, settled in pairs(stable) do
    local _, tried = read_recorded(study, FORWARDED)
    if tried or not settled then forward(study) end
  end
end

local function add_callback(name, callback)
  local earlier = _G[name]
  _G[name] = function(...)
    if earlier then earlier(...) end
    return callback(...)
  end
end

add_callback('OnStableStudy', forward)
add_callback('OnJobSuccess', on_success)
add_callback('OnJobFailure', on_failure)
add_callback('OnHeartBeat', on_heartbeat)
add_callback('Initialize', resume)
