package spec

// What the OCI runtime spec has no field for travels to a Linux runtime in the
// following ways. A runtime that does not know them would run a container as
// uid 0 with no extra groups, so ours must.
const (
	// AnnotationUser is the user as the client wrote it: "", "name", "uid",
	// "name:group", "uid:gid". The same string is in process.user.username, also
	// for execs, which carry no annotations; process.user.uid and gid are its
	// numbers where it has them and 0 otherwise. The runtime resolves it inside
	// the container's root, after the mounts are made, by the rules of Docker:
	//
	//   - "" is uid 0. A name must be in /etc/passwd ("unable to find user x: no
	//     matching entries in passwd file"); a number need not be.
	//   - Without a group, the gid is the passwd entry's, else 0, and the
	//     supplementary groups are those of /etc/group that list the user's name.
	//     With a group, it is the gid and there are no supplementary groups but
	//     those of AnnotationGroupAdd. A group's name must be in /etc/group.
	//   - If process.env has no HOME it gets the passwd entry's, else "/".
	AnnotationUser = "caisson.user"

	// AnnotationGroupAdd lists further groups, names or numbers, separated by
	// commas; they apply to the first process and to every exec.
	AnnotationGroupAdd = "caisson.group-add"

	// AnnotationMakeWorkdir is "true" where the working directory was given
	// and must be made, owned by the user, if the image lacks it.
	AnnotationMakeWorkdir = "caisson.make-workdir"

	// OptionCopyUp on a bind mount says: if the source directory is empty, copy
	// what the root filesystem has at the destination into it first, with owner,
	// mode and times of the destination directory itself. The runtime drops the
	// option before it mounts.
	OptionCopyUp = "x-caisson.copyup"
)

// Namespaces in linux.namespaces follow OCI, with one addition: an entry
// {type: network} without a path is the sandbox's network namespace
// (backendpb.Sandbox.netns), not a new one. No entry is the host's.
