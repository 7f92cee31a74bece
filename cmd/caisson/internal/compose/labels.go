package compose

// The labels that tie what is on an engine to a project. They are Docker's, so
// that its tool and ours can look after one project in turn.
const (
	// ProjectLabel is the project's name.
	ProjectLabel = labelProject

	labelProject   = "com.docker.compose.project"
	labelService   = "com.docker.compose.service"
	labelHash      = "com.docker.compose.config-hash"
	labelNumber    = "com.docker.compose.container-number"
	labelVolume    = "com.docker.compose.volume"
	labelNetwork   = "com.docker.compose.network"
	labelDir       = "com.docker.compose.project.working_dir"
	labelFiles     = "com.docker.compose.project.config_files"
	labelEnvFiles  = "com.docker.compose.project.environment_file"
	labelOneOff    = "com.docker.compose.oneoff"
	labelSlug      = "com.docker.compose.slug"
	labelImage     = "com.docker.compose.image"
	labelDependsOn = "com.docker.compose.depends_on"
	labelVersion   = "com.docker.compose.version"
	labelReplace   = "com.docker.compose.replace"
)

// Version is the version of Docker's tool whose behaviour this package has. What
// it makes is labelled with it.
const Version = "2.40.3"
