package main

// commands is the whole tree. A verb that Docker has twice, as `ps` and as
// `container ls`, is one row under two names.
func commands() *command {
	return &command{
		short: "Containers, isolated as strongly as the host's owner says",
		sub: []*command{
			&runCommand, &execCommand, &psCommand, &pullCommand, &pushCommand, &imagesCommand,
			&loginCommand, &logoutCommand, &searchCommand, &versionCommand, &infoCommand,
			{name: "container", short: "Manage containers", sub: []*command{
				&attachCommand, &commitCommand, &cpCommand, &createCommand, &diffCommand, &execCommand, &exportCommand,
				&containerInspectCommand, &killCommand, &logsCommand, named(psCommand, "ls", "list", "ps"), &pauseCommand, &portCommand,
				&containerPruneCommand, &renameCommand, &restartCommand, named(rmCommand, "rm", "remove"), &runCommand,
				&startCommand, &statsCommand, &stopCommand, &topCommand, &unpauseCommand, &updateCommand, &waitCommand,
			}},
			{name: "image", short: "Manage images", sub: []*command{
				&historyCommand, &importCommand, &imageInspectCommand, &loadCommand, named(imagesCommand, "ls", "list"), &imagePruneCommand,
				&pullCommand, &pushCommand, named(rmiCommand, "rm", "remove"), &saveCommand, &tagCommand,
			}},
			{name: "network", short: "Manage networks", sub: []*command{
				&networkConnectCommand, &networkCreateCommand, &networkDisconnectCommand, &networkInspectCommand,
				&networkLsCommand, &networkPruneCommand, &networkRmCommand,
			}},
			{name: "system", short: "Manage the engine", sub: []*command{
				&dfCommand, &eventsCommand, &infoCommand, &systemPruneCommand,
			}},
			{name: "context", short: "Manage the engines that this client knows", sub: []*command{
				&contextCreateCommand, &contextInspectCommand, &contextLsCommand, &contextRmCommand, &contextShowCommand, &contextUseCommand,
			}},
			{name: "backend", short: "Look at the ways to isolate that the engine has", sub: []*command{&backendLsCommand}},
			&policyCommands,
			&volumeCommands,
			&composeCommands,
			&attachCommand, &commitCommand, &cpCommand, &createCommand, &diffCommand, &eventsCommand, &exportCommand,
			&historyCommand, &importCommand, &inspectCommand, &killCommand, &loadCommand, &logsCommand, &pauseCommand,
			&portCommand, &renameCommand, &restartCommand, &rmCommand, &rmiCommand, &saveCommand, &startCommand,
			&statsCommand, &stopCommand, &tagCommand, &topCommand, &unpauseCommand, &updateCommand, &waitCommand,
			&completionCommand, &completeCommand, &manCommand,
		},
	}
}

// named is a verb under another name.
func named(c command, name string, aliases ...string) *command {
	c.name, c.aliases = name, aliases
	return &c
}
