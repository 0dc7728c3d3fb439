// Package metastore keeps the cluster's metadata in an embedded etcd: every
// key is in keys.go, changes are typed transactions, and readers see an
// immutable Image that a watch keeps up to date. Records, offsets of groups
// and objects do not belong here.
package metastore

import "github.com/firnlog/firn/record"

// Image is the metadata at one etcd revision. It is never changed once
// published; readers may keep it.
type Image struct {
	Revision   int64 // of etcd
	ClusterID  string
	Controller record.BrokerID // -1 when none
	Brokers    map[record.BrokerID]Broker
	Topics     map[string]*Topic
	TopicIDs   map[record.TopicID]*Topic
	Configs    map[ConfigResource]map[string]string // of what is no topic; none of them is empty
	Partitions int                                  // of all topics
}

// Broker is a registered broker; its key has a lease.
type Broker struct {
	ID        record.BrokerID
	Host      string // advertised
	Port      int32
	HTTP      string // host:port of the HTTP listener
	Rack      string // "" for none
	Epoch     int64  // creation revision of the registration
	StartedMs int64
}

// Topic is one topic. Partitions[i].ID == i.
type Topic struct {
	Name       string
	ID         record.TopicID
	Internal   bool // __consumer_offsets and the like
	Partitions []Partition
	Configs    map[string]string // set by hand; defaults are not listed
	CreatedMs  int64
	Revision   int64 // of the last change to the topic, its configs or partitions
}

// Partition is one partition's place and leadership.
type Partition struct {
	ID             record.PartitionID
	Leader         record.BrokerID // -1 when none
	Epoch          record.Epoch
	PartitionEpoch int32 // counts changes of this value
	Replicas       []record.BrokerID
	ISR            []record.BrokerID
}
