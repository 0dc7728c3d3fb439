package brokerconfig

import (
	"math"
	"strconv"
	"time"

	"github.com/firnlog/firn/broker/topicconfig"
)

// Shorter names for the tables.
const (
	boolean = topicconfig.Boolean
	text    = topicconfig.String
	integer = topicconfig.Int
	short   = topicconfig.Short
	long    = topicconfig.Long
	list    = topicconfig.List

	noLimit = "2147483647"
)

var (
	atLeast = topicconfig.AtLeast
	between = topicconfig.Between
	oneOf   = topicconfig.OneOf
)

// rows are the configs that are not defaults of topic configs. Names, types
// and scopes are Kafka's (https://kafka.apache.org/documentation/#brokerconfigs);
// the words are ours. A row is added with the code that obeys it.
var rows = []Definition{
	// Who the broker is: settings of firn start under Kafka's names.
	{Name: "advertised.listeners", Type: list, NoDefault: true, Setting: "advertise", Doc: "Where clients are told to connect to."},
	{Name: "broker.id", Type: integer, Default: "-1", Setting: "node-id", Doc: "This broker's id."},
	{Name: "broker.rack", Type: text, NoDefault: true, Setting: "rack", Doc: "The zone that this broker stands in."},
	{Name: "listeners", Type: list, Default: "PLAINTEXT://:9092", Setting: "kafka", Doc: "Where Kafka clients are listened for."},
	{Name: "log.dirs", Type: list, NoDefault: true, Setting: "data", Doc: "The folder of the partitions' logs."},
	{Name: "node.id", Type: integer, NoDefault: true, Setting: "node-id", Doc: "This broker's id."},
	{Name: "remote.log.storage.system.enable", Type: boolean, Default: "true", Kafka: "false", Setting: "store", Doc: "Whether topics can be tiered to object storage. They always can."},

	// Connections and requests.
	{Name: "connections.max.idle.ms", Type: long, Default: "600000", check: notZero, Valid: "1 and up; below 0 for never",
		Doc: "After how long (milliseconds) in which nothing moves a connection is closed.",
		put: ms(func(v *Values) *time.Duration { return &v.Network.MaxIdle })},
	{Name: "max.connection.creation.rate", Type: integer, Default: noLimit, Scope: ClusterWide, check: atLeast(1), Valid: "1 and up",
		Doc: "New connections per second; further ones wait to be accepted. 2147483647 is no limit.",
		put: number(func(v *Values) *int { return &v.Network.MaxConnectionRate })},
	{Name: "max.connections", Type: integer, Default: "10000", Kafka: noLimit, Scope: ClusterWide, check: atLeast(1), Valid: "1 and up",
		Doc: "Open connections of Kafka clients in all; further ones wait to be accepted. A lower limit closes those that have been idle for the longest time.",
		put: number(func(v *Values) *int { return &v.Network.MaxConnections })},
	{Name: "max.connections.per.ip", Type: integer, Default: noLimit, Scope: ClusterWide, check: atLeast(0), Valid: "0 and up",
		Doc: "Open connections from one address; more are closed at once. 2147483647 is no limit; 0 needs max.connections.per.ip.overrides.",
		put: number(func(v *Values) *int { return &v.Network.MaxPerIP })},
	{Name: "max.connections.per.ip.overrides", Type: text, Default: "", Scope: ClusterWide, check: checkOverrides, Valid: "ADDRESS:NUMBER, separated by commas",
		Doc: "Other limits than max.connections.per.ip for some addresses, such as 10.0.0.7:500,::1:10. Host names are not looked up.",
		put: func(v *Values, s *string) { v.Network.PerIPOverrides, _ = parseOverrides(*s) }},
	{Name: "queued.max.request.bytes", Type: long, Default: "536870912", Kafka: "-1", Valid: "1 and up, at least socket.request.max.bytes; below 1 is no limit",
		Doc: "Memory for requests that are being handled, over all connections; beyond it nothing more is read. As much again may be held by small requests, requests that wait for records, and replies that clients have not taken; beyond it connections on which nothing moves are closed.",
		put: number(func(v *Values) *int64 { return &v.Network.QueuedBytes })},
	{Name: "socket.request.max.bytes", Type: integer, Default: "104857600", check: between(64<<10, 1<<30), Valid: "65536 to 1073741824",
		Doc: "The largest request; a connection that announces a larger one is closed.",
		put: number(func(v *Values) *int { return &v.Network.MaxRequestBytes })},

	{Name: "socket.send.buffer.bytes", Type: integer, Default: "0", Kafka: "102400", check: checkSendBuffer, Valid: "4096 and up; 0 follows the connection; -1 is the kernel's choice",
		Doc: "The kernel's buffer for what is sent to a client (SO_SNDBUF). 0 follows each connection: from 200 KiB, with which a near client is served fastest, to 4 MiB, about twice what is on its way to a distant one at a time. Where net.core.wmem_max is lower than that, a connection that needs more is left to the kernel, up to the last number of net.ipv4.tcp_wmem. Any other size is fixed.",
		put: number(func(v *Values) *int { return &v.Network.SendBuffer })},

	// Fetches.
	{Name: "fetch.max.bytes", Type: integer, Default: "57671680", check: atLeast(1024), Valid: "1024 and up",
		Doc: "The most bytes of one fetch reply, whatever the client asks for.",
		put: number(func(v *Values) *int { return &v.Fetch.MaxBytes })},
	{Name: "max.incremental.fetch.session.cache.slots", Type: integer, Default: "1000", check: atLeast(0), Valid: "0 and up",
		Doc: "Fetch sessions kept at one time; a client that gets none sends whole requests.",
		put: number(func(v *Values) *int { return &v.Fetch.Sessions })},

	// Topics and partitions.
	{Name: "auto.create.topics.enable", Type: boolean, Default: "true",
		Doc: "Whether a topic is made when a client first asks for it by name.",
		put: flag(func(v *Values) *bool { return &v.Topics.AutoCreate })},
	{Name: "default.replication.factor", Type: integer, Default: "1", check: between(1, math.MaxInt16), Valid: "1 and up",
		Doc: "Replicas of topics that are made without a number.",
		put: number(func(v *Values) *int16 { return &v.Topics.ReplicationFactor })},
	{Name: "delete.topic.enable", Type: boolean, Default: "true",
		Doc: "Whether topics can be deleted.",
		put: flag(func(v *Values) *bool { return &v.Topics.Delete })},
	{Name: "firn.journal.bytes", Type: long, Default: "536870912", check: atLeast(134217728), Valid: "134217728 and up",
		Doc: "Room on disk (bytes) for the journal, in which records are made durable before their segments are. More lets segments be synced less often, and makes the start after a crash longer.",
		put: number(func(v *Values) *int64 { return &v.Storage.JournalBytes })},
	{Name: "firn.max.partitions", Type: integer, Default: "100000", Scope: ClusterWide, check: atLeast(1), Valid: "1 and up",
		Doc: "Partitions of all topics together, internal ones counted; a topic or partitions beyond it are refused with POLICY_VIOLATION.",
		put: number(func(v *Values) *int { return &v.Topics.MaxPartitions })},
	{Name: "firn.max.topics", Type: integer, Default: "50000", Scope: ClusterWide, check: atLeast(1), Valid: "1 and up",
		Doc: "Topics, internal ones counted; one more is refused with POLICY_VIOLATION.",
		put: number(func(v *Values) *int { return &v.Topics.MaxTopics })},
	{Name: "log.retention.check.interval.ms", Type: long, Default: "5000", Kafka: "300000", check: between(1, 86400_000), Valid: "1 to 86400000",
		Doc: "Time (milliseconds) between two looks at which segments are to be deleted, or to be sealed by age.",
		put: ms(func(v *Values) *time.Duration { return &v.Topics.RetentionCheck })},
	{Name: "num.partitions", Type: integer, Default: "1", check: between(1, 1_000_000), Valid: "1 to 1000000",
		Doc: "Partitions of topics that are made without a number.",
		put: number(func(v *Values) *int32 { return &v.Topics.Partitions })},
	{Name: "producer.id.expiration.ms", Type: integer, Default: "86400000", Scope: ClusterWide, check: atLeast(1), Valid: "1 and up",
		Doc: "How long (milliseconds) a partition remembers the sequence numbers of an idempotent producer that is silent.",
		put: ms(func(v *Values) *time.Duration { return &v.Topics.ProducerIDExpiration })},

	// Moving replicas.
	{Name: "firn.balance", Type: boolean, Default: "true", Scope: ClusterWide,
		Doc: "Whether replicas and leaderships are moved by themselves, a few at a time, until brokers are even. Off, moves that are under way are completed and none is begun but for what drained brokers have to give away.",
		put: flag(func(v *Values) *bool { return &v.Balance.On })},
	{Name: "firn.balance.delay.ms", Type: long, Default: "60000", Scope: ClusterWide, check: atLeast(0), Valid: "0 and up",
		Doc: "How long (milliseconds) no broker must have come or gone before replicas are moved to make brokers even. Drained brokers are emptied without it.",
		put: ms(func(v *Values) *time.Duration { return &v.Balance.Delay })},
	{Name: "firn.balance.moves", Type: integer, Default: "5", Scope: ClusterWide, check: between(1, 1000), Valid: "1 to 1000",
		Doc: "Partitions whose replicas are moved at the same time, those counted that somebody asked for. Beyond it no further move is begun.",
		put: number(func(v *Values) *int { return &v.Balance.Moves })},
	{Name: "firn.drained.brokers", Type: list, Default: "", Scope: ClusterWide, check: checkIDs, Valid: "ids of brokers; set for all brokers",
		Doc: "Brokers that are to have no replicas, as before they are taken away: what they have is moved to others, and nothing new is placed on them. They need not be alive.",
		put: func(v *Values, s *string) { v.Balance.Drained, _ = parseIDs(*s) }},
	{Name: "firn.move.rate", Type: long, Default: "52428800", Scope: ClusterWide, check: atLeast(1), Valid: "1 and up",
		Doc: "Bytes per second that a broker copies, at most, of replicas that are being moved to it, all together, whoever asked for the moves. Partitions that follower.replication.throttled.replicas names do not count. 9223372036854775807 is no limit.",
		put: number(func(v *Values) *int64 { return &v.Replication.MoveRate })},
	{Name: "follower.replication.throttled.rate", Type: long, Default: "9223372036854775807", Scope: ClusterWide, check: atLeast(0), Valid: "0 and up", Unlisted: true,
		Doc: "Bytes per second that a broker copies, at most, of the replicas that follower.replication.throttled.replicas names and that are not in sync (KIP-73).",
		put: number(func(v *Values) *int64 { return &v.Replication.FollowerRate })},
	{Name: "leader.replication.throttled.rate", Type: long, Default: "9223372036854775807", Scope: ClusterWide, check: atLeast(0), Valid: "0 and up", Unlisted: true,
		Doc: "Bytes per second that a broker serves, at most, to replicas that are not in sync, of the partitions that leader.replication.throttled.replicas names (KIP-73).",
		put: number(func(v *Values) *int64 { return &v.Replication.LeaderRate })},

	// Replication.
	{Name: "auto.leader.rebalance.enable", Type: boolean, Default: "true",
		Doc: "Whether partitions are given back to their preferred leaders, the first of their replicas, as these come back.",
		put: flag(func(v *Values) *bool { return &v.Replication.Rebalance })},
	{Name: "leader.imbalance.check.interval.seconds", Type: long, Default: "300", check: atLeast(1), Valid: "1 and up",
		Doc: "Time (seconds) between two looks for partitions that their preferred leader could lead and does not.",
		put: unit(time.Second, func(v *Values) *time.Duration { return &v.Replication.RebalanceEvery })},
	{Name: "num.replica.fetchers", Type: integer, Default: "1", check: between(1, 64), Valid: "1 to 64",
		Doc: "Connections to each other broker over which followers fetch from its leaders.",
		put: number(func(v *Values) *int { return &v.Replication.Fetchers })},
	{Name: "replica.fetch.backoff.ms", Type: integer, Default: "1000", check: atLeast(1), Valid: "1 and up",
		Doc: "Time (milliseconds) until a follower asks again after errors, at most; it begins with less.",
		put: ms(func(v *Values) *time.Duration { return &v.Replication.Backoff })},
	{Name: "replica.fetch.max.bytes", Type: integer, Default: "1048576", check: atLeast(1024), Valid: "1024 and up",
		Doc: "Bytes of one partition that a follower asks for at a time; a larger batch comes all the same.",
		put: number(func(v *Values) *int32 { return &v.Replication.PartitionMaxBytes })},
	{Name: "replica.fetch.response.max.bytes", Type: integer, Default: "10485760", check: atLeast(1024), Valid: "1024 and up",
		Doc: "Bytes of all partitions that a follower asks for at a time.",
		put: number(func(v *Values) *int32 { return &v.Replication.MaxBytes })},
	{Name: "replica.fetch.wait.max.ms", Type: integer, Default: "500", check: between(1, 60_000), Valid: "1 to 60000, less than replica.lag.time.max.ms",
		Doc: "How long (milliseconds) a leader may wait for records before it answers a follower.",
		put: ms(func(v *Values) *time.Duration { return &v.Replication.MaxWait })},
	{Name: "replica.lag.time.max.ms", Type: long, Default: "30000", check: atLeast(1), Valid: "1 and up",
		Doc: "A follower that has not caught up with its leader for so long (milliseconds) is no longer in sync.",
		put: ms(func(v *Values) *time.Duration { return &v.Replication.Lag })},
	{Name: "replica.selector.class", Type: text, NoDefault: true, check: checkSelector, Valid: rackAware + ", with or without its package",
		Doc: "Who may tell consumers to read from another replica than the leader (KIP-392). With RackAwareReplicaSelector a consumer with a client.rack is sent to an in-sync replica in its rack, if the leader is not there itself. Without, everybody reads from the leader.",
		put: func(v *Values, s *string) { v.Replication.RackAware = s != nil }},
	{Name: "replica.socket.timeout.ms", Type: integer, Default: "30000", check: atLeast(1), Valid: "1 and up",
		Doc: "How long (milliseconds) a follower waits for a connection, or for an answer that is due.",
		put: ms(func(v *Values) *time.Duration { return &v.Replication.SocketTimeout })},

	// Compaction.
	{Name: "log.cleaner.backoff.ms", Type: long, Default: "15000", Scope: ClusterWide, check: atLeast(1), Valid: "1 and up",
		Doc: "Time (milliseconds) between two looks at what is worth compacting, while nothing is.",
		put: ms(func(v *Values) *time.Duration { return &v.Cleaner.Backoff })},
	{Name: "log.cleaner.dedupe.buffer.size", Type: long, Default: "134217728", Scope: ClusterWide, check: between(1<<20, math.MaxInt64), Valid: "1048576 and up",
		Doc: "Memory for the keys that compaction has seen, all threads together. With less, a partition takes more passes.",
		put: number(func(v *Values) *int64 { return &v.Cleaner.KeyBytes })},
	{Name: "log.cleaner.io.max.bytes.per.second", Type: topicconfig.Double, Default: "1.7976931348623157E308", Scope: ClusterWide, check: above(0), Valid: "above 0",
		Doc: "The most bytes per second that compaction reads and writes, all threads together.",
		put: func(v *Values, s *string) { v.Cleaner.BytesPerSecond, _ = strconv.ParseFloat(*s, 64) }},
	{Name: "log.cleaner.threads", Type: integer, Default: "1", Scope: ClusterWide, check: between(1, 256), Valid: "1 to 256",
		Doc: "Partitions that are compacted at the same time.",
		put: number(func(v *Values) *int { return &v.Cleaner.Threads })},

	// Defaults of topic configs that are given in another unit, or by another
	// config, when the one with Kafka's first name is not set.
	{Name: "log.flush.scheduler.interval.ms", Type: long, Default: "9223372036854775807", Topic: "flush.ms", check: asTopic("flush.ms"),
		Doc: "The default of the topic config flush.ms while log.flush.interval.ms is not set."},
	{Name: "log.retention.hours", Type: integer, Default: "168", Topic: "retention.ms", check: notZero, Valid: "1 and up; below 0 means no limit",
		Doc: "The default of the topic config retention.ms, in hours, while neither log.retention.ms nor log.retention.minutes is set. Below 0 is no limit."},
	{Name: "log.retention.minutes", Type: integer, NoDefault: true, Topic: "retention.ms", check: notZero, Valid: "1 and up; below 0 means no limit",
		Doc: "The default of the topic config retention.ms, in minutes, while log.retention.ms is not set. Below 0 is no limit."},
	{Name: "log.roll.hours", Type: integer, Default: "168", Topic: "segment.ms", check: atLeast(1), Valid: "1 and up",
		Doc: "The default of the topic config segment.ms, in hours, while log.roll.ms is not set."},
	{Name: "log.roll.jitter.hours", Type: integer, Default: "0", Topic: "segment.jitter.ms", check: hours("segment.jitter.ms"), Valid: "0 and up",
		Doc: "The default of the topic config segment.jitter.ms, in hours, while log.roll.jitter.ms is not set."},

	// Consumer groups.
	{Name: "firn.group.max.bytes", Type: integer, Default: "33554432", Scope: ClusterWide, check: atLeast(1024), Valid: "1024 and up",
		Doc: "Ids, subscriptions and assignments of the members of one group, in bytes; a member beyond it is refused with GROUP_MAX_SIZE_REACHED.",
		put: number(func(v *Values) *int { return &v.Groups.MaxGroupBytes })},
	{Name: "firn.group.max.offsets", Type: integer, Default: "1000000", Scope: ClusterWide, check: atLeast(1), Valid: "1 and up",
		Doc: "Partitions that one group may commit offsets of; a further one is refused with INVALID_COMMIT_OFFSET_SIZE.",
		put: number(func(v *Values) *int { return &v.Groups.MaxGroupOffsets })},
	{Name: "firn.groups.max.bytes", Type: long, Default: "1073741824", Scope: ClusterWide, check: atLeast(1 << 20), Valid: "1048576 and up",
		Doc: "Memory, about, of all groups and offsets that one broker keeps; beyond it new groups and members are refused with GROUP_MAX_SIZE_REACHED, offsets of further partitions with INVALID_COMMIT_OFFSET_SIZE.",
		put: number(func(v *Values) *int64 { return &v.Groups.MaxBytes })},
	{Name: "firn.max.groups", Type: integer, Default: "100000", Scope: ClusterWide, check: atLeast(1), Valid: "1 and up",
		Doc: "Consumer groups that one broker coordinates; a further one is refused.",
		put: number(func(v *Values) *int { return &v.Groups.MaxGroups })},
	{Name: "group.initial.rebalance.delay.ms", Type: integer, Default: "3000", check: atLeast(0), Valid: "0 and up",
		Doc: "How long (milliseconds) a new, empty group waits for more members before it starts.",
		put: ms(func(v *Values) *time.Duration { return &v.Groups.InitialRebalanceDelay })},
	{Name: "group.max.session.timeout.ms", Type: integer, Default: "1800000", check: atLeast(1), Valid: "1 and up",
		Doc: "The longest session timeout (milliseconds) that a member may ask for.",
		put: ms(func(v *Values) *time.Duration { return &v.Groups.MaxSession })},
	{Name: "group.max.size", Type: integer, Default: "10000", Kafka: noLimit, check: atLeast(1), Valid: "1 and up",
		Doc: "Members of one group.",
		put: number(func(v *Values) *int { return &v.Groups.MaxSize })},
	{Name: "group.min.session.timeout.ms", Type: integer, Default: "6000", check: atLeast(1), Valid: "1 and up",
		Doc: "The shortest session timeout (milliseconds) that a member may ask for.",
		put: ms(func(v *Values) *time.Duration { return &v.Groups.MinSession })},
	{Name: "offset.metadata.max.bytes", Type: integer, Default: "4096", check: atLeast(0), Valid: "0 and up",
		Doc: "The longest text that may be stored with a committed offset.",
		put: number(func(v *Values) *int { return &v.Groups.MaxMetadataBytes })},
	{Name: "offsets.retention.check.interval.ms", Type: long, Default: "600000", check: atLeast(1), Valid: "1 and up",
		Doc: "Time (milliseconds) between two looks at which offsets have expired.",
		put: ms(func(v *Values) *time.Duration { return &v.Groups.OffsetsCheck })},
	{Name: "offsets.retention.minutes", Type: integer, Default: "10080", check: atLeast(1), Valid: "1 and up",
		Doc: "How long (minutes) the offsets of a group without members are kept.",
		put: unit(time.Minute, func(v *Values) *time.Duration { return &v.Groups.OffsetsRetention })},
	{Name: "offsets.topic.num.partitions", Type: integer, Default: "50", check: between(1, 1000), Valid: "1 to 1000",
		Doc: "Partitions of __consumer_offsets; used when that topic is made.",
		put: number(func(v *Values) *int32 { return &v.Groups.OffsetsPartitions })},
	{Name: "offsets.topic.replication.factor", Type: short, Default: "3", check: between(1, math.MaxInt16), Valid: "1 and up",
		Doc: "Replicas of __consumer_offsets, used when that topic is made: as many as there are brokers then, if those are fewer, but not fewer than there are etcd members. With three or more its min.insync.replicas is 2.",
		put: number(func(v *Values) *int16 { return &v.Groups.OffsetsReplicas })},
	{Name: "offsets.topic.segment.bytes", Type: integer, Default: "104857600", check: asTopic("segment.bytes"), Valid: "1048576 and up",
		Doc: "The config segment.bytes of __consumer_offsets; used when that topic is made.",
		put: number(func(v *Values) *int { return &v.Groups.OffsetsSegmentBytes })},

	// Others.
	{Name: "max.request.partition.size.limit", Type: integer, Default: "2000", check: atLeast(1), Valid: "1 and up",
		Doc: "Partitions in one reply to DescribeTopicPartitions.",
		put: number(func(v *Values) *int { return &v.Topics.MaxDescribed })},
	{Name: "telemetry.max.bytes", Type: integer, Default: "1048576", check: atLeast(1), Valid: "1 and up",
		Doc: "The largest set of metrics, compressed, that a client may push.",
		put: number(func(v *Values) *int { return &v.TelemetryMaxBytes })},
}

// link is one config that may give a topic config's default; its number times
// factor is the topic config's.
type link struct {
	name   string
	factor int64
}

// chains are the topic configs whose default may come from several broker
// configs, the strongest first. The last one always has a value.
var chains = map[string][]link{
	"flush.ms":          {{"log.flush.interval.ms", 1}, {"log.flush.scheduler.interval.ms", 1}},
	"retention.ms":      {{"log.retention.ms", 1}, {"log.retention.minutes", 60_000}, {"log.retention.hours", 3600_000}},
	"segment.jitter.ms": {{"log.roll.jitter.ms", 1}, {"log.roll.jitter.hours", 3600_000}},
	"segment.ms":        {{"log.roll.ms", 1}, {"log.roll.hours", 3600_000}},
}

// table is rows and, from the table of topic configs, the broker configs that
// hold their defaults.
var table = func() []Definition {
	all := rows
	for _, d := range topicconfig.Definitions() {
		if d.Synonym == "" {
			continue
		}
		row := Definition{
			Name: d.Synonym, Type: d.Type, Default: d.Default, Valid: d.Valid, Scope: ClusterWide, Topic: d.Name,
			Doc:   "The default of the topic config " + d.Name + ". " + d.Doc,
			check: asTopic(d.Name),
		}
		if chains[d.Name] != nil {
			row.Default, row.NoDefault = "", true
		}
		if d.Name == "retention.ms" { // of brokers any negative number is no limit
			row.Valid, row.check = "1 and up; below 0 means no limit", notZero
		}
		all = append(all, row)
	}
	return all
}()

// hours checks a number of hours as the topic config checks its milliseconds.
func hours(topic string) func(string) error {
	check := asTopic(topic)
	return func(v string) error {
		n, err := strconv.ParseInt(v, 10, 32)
		if err != nil {
			return err
		}
		return check(strconv.FormatInt(n*3600_000, 10))
	}
}
