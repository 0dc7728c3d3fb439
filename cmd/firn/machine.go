package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/firnlog/firn/machine"
	"github.com/firnlog/firn/record"
)

func (a *app) machineCommand() *cobra.Command {
	cmd := group("machine", "Prepare and look after a virtual machine that runs a broker",
		`A machine is a virtual machine of a cloud that runs one broker. Its user data, which Terraform
writes, has the machine file (`+machine.Path+`) and a script that fetches this binary and
runs "firn machine up" at each boot; docs/deploy.md tells the rest.`,
		a.machineUpCommand(), a.machineWatchCommand())
	cmd.Example = "  firn machine up"
	return cmd
}

func (a *app) machineUpCommand() *cobra.Command {
	var file string
	var restart bool
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Prepare disks, kernel and units, and start the broker",
		Long: `Make this machine ready for its broker, and start that:

  - find the data disks that the cloud gave, put several together as RAID 0, format what is
    empty (XFS, labelled ` + machine.Label + `) and mount it at ` + machine.DataDir + `;
  - write kernel settings, the broker's user, /etc/firn/firn.yaml, firn.service and
    firn-watch.service;
  - start both.

It may be run again at any time: what is there is left as it is, and a broker that runs goes
on. A disk that holds anything else is refused by name, and never overwritten. It needs root.`,
		Example: `  firn machine up
  firn machine up --output json`,
		Args: args(cobra.NoArgs, "no arguments, only flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := readMachine(file)
			if err != nil {
				return err
			}
			if os.Geteuid() != 0 {
				return failf("run it with: sudo firn machine up", "firn machine up changes disks and units, and needs root")
			}
			r, err := machine.Up(cmd.Context(), machine.UpConfig{Root: "/", File: m, Restart: restart}, machine.System)
			if err != nil {
				return failf("", "this machine is not ready: %w", err)
			}
			return a.printUp(r)
		},
	}
	machineFileFlag(cmd, &file)
	cmd.Flags().BoolVar(&restart, "restart", false, "restart a broker that runs, so that what was changed has an effect")
	return cmd
}

func machineFileFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVar(file, "file", machine.Path, "the machine file, at `PATH`")
}

func readMachine(path string) (machine.File, error) {
	m, err := machine.ReadFile(path)
	if err != nil {
		return m, &failure{err: err, code: exitUsage, hint: "docs/deploy.md has an example of a machine file"}
	}
	return m, nil
}

func (a *app) printUp(r machine.Report) error {
	for _, w := range r.Warnings {
		fmt.Fprintf(a.err, "firn: warning: %s\n", w)
	}
	if a.json() {
		return a.printJSON(r)
	}
	line := func(what, text string) { fmt.Fprintf(a.out, "%-12s%s\n", what, text) }
	disk := r.Device
	if len(r.Disks) > 1 {
		disk += ", RAID 0 of " + strings.Join(r.Disks, ", ")
	}
	switch {
	case r.Formatted:
		disk += ", was empty, formatted and mounted at " + machine.DataDir
	case r.Mounted:
		disk += ", mounted at " + machine.DataDir
	default:
		disk += ", is mounted at " + machine.DataDir
	}
	line("disk", disk)
	files := "all as they should be"
	if len(r.Changed) > 0 {
		files = "written: " + strings.Join(r.Changed, ", ")
	}
	line("files", files)
	line("deployment", r.Deployment)
	broker := "runs"
	if r.Started {
		broker = "started"
	}
	line("broker", broker+"; see: systemctl status firn; journalctl -u firn")
	return nil
}

func (a *app) machineWatchCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Obey the cloud's notices, and take turns to restart or be replaced",
		Long: `Look after this machine until it is stopped; firn-watch.service runs it.

A notice of the cloud that the machine is about to go (spot interruption, preemption,
maintenance of its host) drains the broker by a clean stop, which hands over what it leads.
When the notice passes and the machine is still there, the broker is started again.

Every half minute the fleet file is read from the store. When it names another binary, that
is fetched and checked; when it names another machine for this broker, the machine is to be
replaced. Then the broker waits for its turn: brokers with lower numbers go first, one broker
goes at a time, and each only when "firn cluster restart-check" says that it may. In its turn
the binary is put in place and the broker restarted, or the machine powered off, which the
cloud replaces by the newest template. The turn ends when all is in sync again; a broker that
does not come back keeps it, and no other one is touched.`,
		Example: `  firn machine watch
  journalctl -u firn-watch --follow`,
		Args: args(cobra.NoArgs, "no arguments, only flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := readMachine(file)
			if err != nil {
				return err
			}
			return a.machineWatch(cmd.Context(), m)
		},
	}
	machineFileFlag(cmd, &file)
	return cmd
}

func (a *app) machineWatch(ctx context.Context, m machine.File) (err error) {
	log := slog.New(slog.NewTextHandler(a.err, nil))
	if a.json() {
		log = slog.New(slog.NewJSONHandler(a.err, nil))
	}
	store, err := openStore(ctx, m.Store)
	if err != nil {
		return failf("firn-watch asks for the machine's role like the broker does; has it one?", "object store %s: %w", m.Store, err)
	}
	defer func() {
		if closeErr := store.Close(); err == nil {
			err = closeErr
		}
	}()
	a.brokers = machineBrokers(&m)
	w := machine.NewWatcher(machine.WatchConfig{Root: "/", File: m}, machine.WatchDeps{
		Log: log, Run: machine.System, Notices: machine.NoticesOf(m.Cloud, metadataBase(m.Cloud, a.env)), Store: store, Open: openStore,
		Look: func(ctx context.Context) (*machine.Cluster, error) { return a.lookFor(ctx, m.Broker) },
	})
	if err := w.Watch(ctx); err != nil {
		return failf("", "%w", err)
	}
	return nil
}

// machineBrokers are the addresses that tell of the cluster: this broker's, and
// those of the members of etcd.
func machineBrokers(m *machine.File) string {
	all := []string{m.Address()}
	for _, h := range m.Seeds {
		if h != m.Host {
			all = append(all, net.JoinHostPort(h, strconv.Itoa(machine.KafkaPort)))
		}
	}
	return strings.Join(all, ",")
}

// metadataBase is where the cloud's metadata is; the variables are those that
// the clouds' own libraries look at.
func metadataBase(cloud string, env func(string) string) string {
	if at := env("AWS_EC2_METADATA_SERVICE_ENDPOINT"); cloud == machine.AWS && at != "" {
		return strings.TrimRight(at, "/")
	}
	if at := env("GCE_METADATA_HOST"); cloud == machine.GCP && at != "" {
		return "http://" + at
	}
	return machine.Metadata
}

// lookFor is what a machine asks of its cluster.
func (a *app) lookFor(ctx context.Context, id int32) (*machine.Cluster, error) {
	cl, err := a.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	v, err := a.viewCluster(ctx, cl, true)
	if err != nil {
		return nil, err
	}
	if v.detail == nil {
		return nil, fmt.Errorf("no broker's HTTP address answers: what the brokers run as is not known; is port %d open among them?", machine.HTTPPort)
	}
	c := &machine.Cluster{Deployments: map[int32]string{}}
	for _, b := range v.brokers {
		c.Deployments[b.NodeID] = v.deployment(b.NodeID)
	}
	r := v.MayRestart(record.BrokerID(id), nil)
	c.MayRestart, c.Reasons = r.May, r.Reasons
	return c, nil
}
