package main

import "github.com/spf13/cobra"

func (a *app) logCommand() *cobra.Command {
	return group("log", "Look into Firn's files", "x")
}
