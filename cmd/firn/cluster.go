package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

// clusterInfo is what cluster info prints. -1 stands for "not known".
type clusterInfo struct {
	ClusterID  string        `json:"clusterId"`
	Controller int32         `json:"controller"`
	Brokers    []brokerInfo  `json:"brokers"`
	Topics     topicCounts   `json:"topics"`
	Features   []featureInfo `json:"features"`
	LogDirs    []logDirInfo  `json:"logDirs"` // empty where the brokers do not say
}

type brokerInfo struct {
	ID         int32  `json:"id"`
	Host       string `json:"host"`
	Port       int32  `json:"port"`
	Rack       string `json:"rack,omitempty"`
	Controller bool   `json:"controller"`
	APIs       int    `json:"apis"`     // how many the broker answers
	Protocol   string `json:"protocol"` // see protocolOf
	Error      string `json:"error,omitempty"`
}

// topicCounts counts; internal topics are those that brokers keep for
// themselves, and count in all the others too.
type topicCounts struct {
	Topics          int `json:"topics"`
	Internal        int `json:"internal"`
	Partitions      int `json:"partitions"`
	Replicas        int `json:"replicas"`
	Leaderless      int `json:"leaderless"`      // partitions without a leader
	UnderReplicated int `json:"underReplicated"` // partitions with a copy that is behind or away
}

// featureInfo is a feature level of the cluster (KIP-584). Level is 0 where
// the feature is off.
type featureInfo struct {
	Name  string `json:"name"`
	Level int16  `json:"level"`
	Min   int16  `json:"min"`
	Max   int16  `json:"max"`
}

type logDirInfo struct {
	Broker     int32  `json:"broker"`
	Dir        string `json:"dir"`
	Partitions int    `json:"partitions"`
	Bytes      int64  `json:"bytes"`      // of the logs
	TotalBytes int64  `json:"totalBytes"` // of the volume
	FreeBytes  int64  `json:"freeBytes"`  // of the volume
	Error      string `json:"error,omitempty"`
}

func (a *app) clusterCommand() *cobra.Command {
	cmd := group("cluster", "Show brokers and how they are; move replicas; add and remove members; restart them in turn",
		"A cluster is one broker or several that serve the same topics.",
		a.clusterStatusCommand(), a.clusterNodesCommand(), a.clusterHealthCommand(), a.clusterInfoCommand(),
		a.clusterRebalanceCommand(), a.clusterDecommissionCommand(),
		a.clusterAddCommand(), a.clusterRemoveCommand(), a.clusterRestartCheckCommand())
	cmd.Example = "  firn cluster status"
	return a.addBrokers(cmd)
}

func (a *app) clusterInfoCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "info",
		Short: "Show brokers, features, topics and disks",
		Long: `Show the cluster's id, its brokers and which of them is the controller, how many topics and
partitions there are and whether all are well, the features that are switched on, and how
much the logs take on each broker's disks.

PROTOCOL is the newest Kafka release whose versions a broker reaches in all the requests (APIS)
that it answers; "firn api-versions" lists them.`,
		Example: `  firn cluster info
  firn cluster info --brokers broker-1.example.net:9092 --output json`,
		Args: args(cobra.NoArgs, "no arguments; another cluster: --brokers HOST:PORT"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, adm, done, err := a.admin(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			info, err := a.clusterInfo(ctx, adm)
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(info)
			}
			return a.printCluster(info)
		},
	}
}

func (a *app) clusterInfo(ctx context.Context, adm *kadm.Client) (clusterInfo, error) {
	meta, err := adm.Metadata(ctx)
	if err != nil {
		return clusterInfo{}, a.explain("metadata", err, "")
	}
	versions, err := adm.ApiVersions(ctx)
	if err != nil {
		return clusterInfo{}, a.explain("versions", err, "")
	}
	info := clusterInfo{ClusterID: meta.Cluster, Controller: meta.Controller, Brokers: []brokerInfo{},
		Topics: countTopics(meta.Topics), Features: []featureInfo{}, LogDirs: []logDirInfo{}}
	slices.SortFunc(meta.Brokers, func(x, y kadm.BrokerDetail) int { return int(x.NodeID) - int(y.NodeID) })
	for _, b := range meta.Brokers {
		bi := brokerInfo{ID: b.NodeID, Host: b.Host, Port: b.Port, Rack: deref(b.Rack), Controller: b.NodeID == meta.Controller}
		if v := versions[b.NodeID]; v.Err != nil {
			bi.Error = a.explain("versions", v.Err, "").Error()
		} else if v.Raw() != nil {
			bi.APIs, bi.Protocol = len(v.Raw().ApiKeys), protocolOf(v)
			if len(info.Features) == 0 {
				info.Features = features(v.Raw())
			}
		}
		info.Brokers = append(info.Brokers, bi)
	}
	dirs, err := adm.DescribeAllLogDirs(ctx, nil)
	if err != nil && len(dirs) == 0 {
		return info, ctx.Err() // an older broker: the rest is worth to be seen
	}
	for _, d := range dirs.Sorted() {
		di := logDirInfo{Broker: d.Broker, Dir: d.Dir, TotalBytes: d.TotalBytes, FreeBytes: d.UsableBytes, Bytes: -1}
		if d.Err != nil {
			di.Error = codeOf(d.Err)
		} else {
			di.Bytes = d.Size()
			for _, parts := range d.Topics {
				di.Partitions += len(parts)
			}
		}
		info.LogDirs = append(info.LogDirs, di)
	}
	return info, nil
}

// protocolOf gives the newest Kafka release whose versions a broker reaches in
// all the requests that it answers, "" for none.
func protocolOf(b kadm.BrokerApiVersions) string {
	for _, release := range kversion.VersionStrings() { // the newest first
		of, reached := kversion.FromString(release), true
		b.EachKeySorted(func(key, _, hi int16) {
			if want, ok := of.LookupMaxKeyVersion(key); ok && hi < want {
				reached = false
			}
		})
		if reached {
			return strings.TrimPrefix(release, "v")
		}
	}
	return ""
}

func countTopics(all kadm.TopicDetails) (c topicCounts) {
	for _, t := range all {
		c.Topics++
		if t.IsInternal {
			c.Internal++
		}
		for _, p := range t.Partitions {
			c.Partitions++
			c.Replicas += len(p.Replicas)
			if p.Leader < 0 {
				c.Leaderless++
			}
			if len(p.ISR) < len(p.Replicas) {
				c.UnderReplicated++
			}
		}
	}
	return c
}

// features joins what a broker could and what the cluster has switched on.
func features(resp *kmsg.ApiVersionsResponse) []featureInfo {
	all := []featureInfo{}
	for _, s := range resp.SupportedFeatures {
		f := featureInfo{Name: s.Name, Min: s.MinVersion, Max: s.MaxVersion}
		for _, on := range resp.FinalizedFeatures {
			if on.Name == s.Name {
				f.Level = on.MaxVersionLevel
			}
		}
		all = append(all, f)
	}
	slices.SortFunc(all, func(x, y featureInfo) int { return strings.Compare(x.Name, y.Name) })
	return all
}

func (a *app) printCluster(info clusterInfo) error {
	fmt.Fprintf(a.out, "cluster %s, %s, controller %s\n\n", info.ClusterID, plural(len(info.Brokers), "broker"), known(int64(info.Controller)))
	t := newTable(">BROKER", "ADDRESS", "RACK", "PROTOCOL", ">APIS", "ERROR")
	for _, b := range info.Brokers {
		t.row(b.ID, fmt.Sprintf("%s:%d", b.Host, b.Port), b.Rack, b.Protocol, b.APIs, b.Error)
	}
	if !slices.ContainsFunc(info.Brokers, func(b brokerInfo) bool { return b.Error != "" }) {
		t.dropLast()
	}
	if err := t.print(a.out); err != nil {
		return err
	}
	c := info.Topics
	fmt.Fprintf(a.out, "\n%s (%d of them internal), %s, %s\n", plural(c.Topics, "topic"), c.Internal, plural(c.Partitions, "partition"), plural(c.Replicas, "replica"))
	if c.Leaderless+c.UnderReplicated > 0 {
		fmt.Fprintf(a.out, "without a leader: %s; with a copy behind or away: %s\n", plural(c.Leaderless, "partition"), plural(c.UnderReplicated, "partition"))
	} else {
		fmt.Fprintln(a.out, "every partition has its leader and all copies")
	}
	if len(info.Features) > 0 {
		fmt.Fprintln(a.out)
		t = newTable("FEATURE", ">LEVEL", ">MIN", ">MAX")
		for _, f := range info.Features {
			t.row(f.Name, f.Level, f.Min, f.Max)
		}
		if err := t.print(a.out); err != nil {
			return err
		}
	}
	if len(info.LogDirs) == 0 {
		return nil
	}
	fmt.Fprintln(a.out)
	t = newTable(">BROKER", "LOGS IN", ">PARTITIONS", ">LOGS", ">DISK", ">FREE", "ERROR")
	for _, d := range info.LogDirs {
		t.row(d.Broker, d.Dir, d.Partitions, size(d.Bytes), size(d.TotalBytes), size(d.FreeBytes), d.Error)
	}
	if !slices.ContainsFunc(info.LogDirs, func(d logDirInfo) bool { return d.Error != "" }) {
		t.dropLast()
	}
	return t.print(a.out)
}
