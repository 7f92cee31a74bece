package dockerapi

import "net/http"

const (
	get  = http.MethodGet
	head = http.MethodHead
	post = http.MethodPost
	put  = http.MethodPut
	del  = http.MethodDelete
)

// Why some routes of the Docker Engine API are known but not served.
const (
	noBuild   = "this version does not build images; build elsewhere and load or pull the image"
	noSwarm   = "caisson is not a cluster manager"
	noPlugins = "isolation backends are caisson's plugins: see GET /caisson/backends"
	noCRIU    = "no isolation backend of this version can checkpoint"
	noRemote  = "look at the registry with another tool, or pull the image"
	noAttest  = "attestations of images are stored but not interpreted"
)

// routes is the API, one line each. Where two patterns match a path, the first wins.
var routes = []route{
	{get, "/_ping", 0, "ping", (*call).ping, ""},
	{get, "/version", 0, "version", (*call).versionInfo, ""},
	{get, "/info", 0, "system information", (*call).info, ""},
	{get, "/events", 0, "events", (*call).events, ""},
	{get, "/system/df", 0, "disk usage", (*call).diskUsage, ""},
	{post, "/auth", 0, "registry login", (*call).auth, ""},
	{get, "/caisson/backends", 0, "list isolation backends", (*call).backends, ""},
	{post, "/caisson/policy/explain", 0, "explain what the policy says of a container", (*call).policyExplain, ""},
	{get, "/caisson/policy/violations", 0, "list containers that violate the policy", (*call).policyViolations, ""},

	{post, "/containers/create", 0, "create a container", (*call).containerCreate, ""},
	{get, "/containers/json", 0, "list containers", (*call).containerList, ""},
	{post, "/containers/prune", 0, "delete stopped containers", (*call).containerPrune, ""},
	{get, "/containers/{id}/json", 0, "inspect a container", (*call).containerInspect, ""},
	{post, "/containers/{id}/start", 0, "start a container", (*call).containerStart, ""},
	{post, "/containers/{id}/stop", 0, "stop a container", (*call).containerStop, ""},
	{post, "/containers/{id}/restart", 0, "restart a container", (*call).containerRestart, ""},
	{post, "/containers/{id}/kill", 0, "signal a container", (*call).containerKill, ""},
	{post, "/containers/{id}/pause", 0, "pause a container", (*call).containerPause, ""},
	{post, "/containers/{id}/unpause", 0, "unpause a container", (*call).containerUnpause, ""},
	{post, "/containers/{id}/wait", 0, "wait for a container", (*call).containerWait, ""},
	{post, "/containers/{id}/rename", 0, "rename a container", (*call).containerRename, ""},
	{post, "/containers/{id}/update", 0, "update a container's limits", (*call).containerUpdate, ""},
	{post, "/containers/{id}/resize", 0, "resize a container's terminal", (*call).containerResize, ""},
	{get, "/containers/{id}/top", 0, "list a container's processes", (*call).containerTop, ""},
	{get, "/containers/{id}/stats", 0, "a container's resource usage", (*call).containerStats, ""},
	{get, "/containers/{id}/logs", 0, "a container's logs", (*call).containerLogs, ""},
	{post, "/containers/{id}/attach", 0, "attach to a container", (*call).containerAttach, ""},
	{get, "/containers/{id}/attach/ws", 0, "attach to a container by websocket", (*call).containerAttachWS, ""},
	{post, "/containers/{id}/exec", 0, "create an exec", (*call).execCreate, ""},
	{get, "/containers/{id}/changes", 0, "changes to a container's filesystem", (*call).containerChanges, ""},
	{get, "/containers/{id}/export", 0, "export a container's filesystem", (*call).containerExport, ""},
	{head, "/containers/{id}/archive", 0, "stat a path in a container", (*call).archiveStat, ""},
	{get, "/containers/{id}/archive", 0, "copy from a container", (*call).archiveGet, ""},
	{put, "/containers/{id}/archive", 0, "copy into a container", (*call).archivePut, ""},
	{del, "/containers/{id}", 0, "remove a container", (*call).containerRemove, ""},
	{post, "/commit", 0, "make an image of a container", (*call).commit, ""},
	{get, "/containers/{id}/checkpoints", 0, "checkpointing a container", nil, noCRIU},
	{post, "/containers/{id}/checkpoints", 0, "checkpointing a container", nil, noCRIU},

	{post, "/exec/{id}/start", 0, "start an exec", (*call).execStart, ""},
	{post, "/exec/{id}/resize", 0, "resize an exec's terminal", (*call).execResize, ""},
	{get, "/exec/{id}/json", 0, "inspect an exec", (*call).execInspect, ""},

	{post, "/images/create", 0, "pull or import an image", (*call).imageCreate, ""},
	{post, "/images/load", 0, "load images", (*call).imageLoad, ""},
	{post, "/images/prune", 0, "delete unused images", (*call).imagePrune, ""},
	{get, "/images/json", 0, "list images", (*call).imageList, ""},
	{get, "/images/search", 0, "search for images", (*call).imageSearch, ""},
	{get, "/images/get", 0, "save images", (*call).imageSaveMany, ""},
	{get, "/images/{name...}/get", 0, "save an image", (*call).imageSave, ""},
	{get, "/images/{name...}/json", 0, "inspect an image", (*call).imageInspect, ""},
	{get, "/images/{name...}/history", 0, "an image's history", (*call).imageHistory, ""},
	{post, "/images/{name...}/push", 0, "push an image", (*call).imagePush, ""},
	{post, "/images/{name...}/tag", 0, "tag an image", (*call).imageTag, ""},
	{get, "/images/{name...}/attestations", 55, "reading attestations", nil, noAttest},
	{del, "/images/{name...}", 0, "delete an image", (*call).imageDelete, ""},
	{get, "/distribution/{name...}/json", 0, "inspecting an image in a registry", nil, noRemote},

	{post, "/build", 0, "building images", nil, noBuild},
	{post, "/build/prune", 0, "pruning the build cache", nil, noBuild},
	{post, "/build/cancel", 0, "cancelling a build", nil, noBuild},
	{post, "/session", 0, "BuildKit's session", nil, noBuild},
	{post, "/grpc", 0, "BuildKit's control interface", nil, noBuild},

	{get, "/networks", 0, "list networks", (*call).networkList, ""},
	{get, "/networks/{id}", 0, "inspect a network", (*call).networkInspect, ""},
	{post, "/networks/create", 0, "create a network", (*call).networkCreate, ""},
	{post, "/networks/prune", 0, "delete unused networks", (*call).networkPrune, ""},
	{post, "/networks/{id}/connect", 0, "connect a container to a network", (*call).networkConnect, ""},
	{post, "/networks/{id}/disconnect", 0, "disconnect a container from a network", (*call).networkDisconnect, ""},
	{del, "/networks/{id}", 0, "remove a network", (*call).networkRemove, ""},

	{get, "/volumes", 0, "list volumes", (*call).volumeList, ""},
	{post, "/volumes/create", 0, "create a volume", (*call).volumeCreate, ""},
	{post, "/volumes/prune", 0, "delete unused volumes", (*call).volumePrune, ""},
	{get, "/volumes/{name...}", 0, "inspect a volume", (*call).volumeInspect, ""},
	{put, "/volumes/{name...}", 0, "updating a cluster volume", nil, noSwarm},
	{del, "/volumes/{name...}", 0, "remove a volume", (*call).volumeRemove, ""},
	{get, "/caisson/volumes/{name...}/archive", 0, "export a volume", (*call).volumeExport, ""},
	{put, "/caisson/volumes/{name...}/archive", 0, "import into a volume", (*call).volumeImport, ""},

	{get, "/swarm", 0, "swarm", nil, noSwarm},
	{get, "/swarm/{verb...}", 0, "swarm", nil, noSwarm},
	{post, "/swarm/{verb...}", 0, "swarm", nil, noSwarm},
	{get, "/nodes", 0, "swarm nodes", nil, noSwarm},
	{get, "/nodes/{id}", 0, "swarm nodes", nil, noSwarm},
	{post, "/nodes/{id}/update", 0, "swarm nodes", nil, noSwarm},
	{del, "/nodes/{id}", 0, "swarm nodes", nil, noSwarm},
	{get, "/services", 0, "swarm services", nil, noSwarm},
	{post, "/services/create", 0, "swarm services", nil, noSwarm},
	{get, "/services/{id}", 0, "swarm services", nil, noSwarm},
	{post, "/services/{id}/update", 0, "swarm services", nil, noSwarm},
	{get, "/services/{id}/logs", 0, "swarm services", nil, noSwarm},
	{del, "/services/{id}", 0, "swarm services", nil, noSwarm},
	{get, "/tasks", 0, "swarm tasks", nil, noSwarm},
	{get, "/tasks/{id}", 0, "swarm tasks", nil, noSwarm},
	{get, "/tasks/{id}/logs", 0, "swarm tasks", nil, noSwarm},
	{get, "/secrets", 0, "swarm secrets", nil, noSwarm},
	{post, "/secrets/create", 0, "swarm secrets", nil, noSwarm},
	{get, "/secrets/{id}", 0, "swarm secrets", nil, noSwarm},
	{post, "/secrets/{id}/update", 0, "swarm secrets", nil, noSwarm},
	{del, "/secrets/{id}", 0, "swarm secrets", nil, noSwarm},
	{get, "/configs", 0, "swarm configs", nil, noSwarm},
	{post, "/configs/create", 0, "swarm configs", nil, noSwarm},
	{get, "/configs/{id}", 0, "swarm configs", nil, noSwarm},
	{post, "/configs/{id}/update", 0, "swarm configs", nil, noSwarm},
	{del, "/configs/{id}", 0, "swarm configs", nil, noSwarm},

	{get, "/plugins", 0, "plugins", nil, noPlugins},
	{get, "/plugins/privileges", 0, "plugins", nil, noPlugins},
	{post, "/plugins/pull", 0, "plugins", nil, noPlugins},
	{post, "/plugins/create", 0, "plugins", nil, noPlugins},
	{get, "/plugins/{name...}/json", 0, "plugins", nil, noPlugins},
	{post, "/plugins/{name...}/enable", 0, "plugins", nil, noPlugins},
	{post, "/plugins/{name...}/disable", 0, "plugins", nil, noPlugins},
	{post, "/plugins/{name...}/upgrade", 0, "plugins", nil, noPlugins},
	{post, "/plugins/{name...}/push", 0, "plugins", nil, noPlugins},
	{post, "/plugins/{name...}/set", 0, "plugins", nil, noPlugins},
	{del, "/plugins/{name...}", 0, "plugins", nil, noPlugins},
}
