package brokerconfig

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/firnlog/firn/broker/topicconfig"
)

// normal spells a valid value as the table's defaults are spelled.
func (d *Definition) normal(v string) string {
	switch {
	case d.Topic != "":
		return topicconfig.Canonical(d.Topic, v)
	case d.Type == topicconfig.Double:
		return strings.TrimSpace(v) // a default is the greatest there is
	}
	return d.Type.Canonical(v)
}

// above takes numbers greater than limit.
func above(limit float64) func(string) error {
	return func(v string) error {
		if f, err := strconv.ParseFloat(v, 64); err != nil || f <= limit {
			return fmt.Errorf("%s is not above %v", v, limit)
		}
		return nil
	}
}

// asTopic checks a value as the topic config does whose default it is.
func asTopic(topic string) func(string) error {
	return func(v string) error {
		err := topicconfig.Check(topic, v)
		if te, ok := err.(*topicconfig.Error); ok {
			return fmt.Errorf("%s", te.Reason)
		}
		return err
	}
}

// notZero takes any number but 0: of a time after which connections are closed
// or records deleted, which would be at once.
func notZero(v string) error {
	if n, err := strconv.ParseInt(v, 10, 64); err != nil || n == 0 {
		return errors.New("must not be 0; give a number below 0 for no limit")
	}
	return nil
}

// checkSendBuffer takes sizes of a socket's buffer and what stands for none.
func checkSendBuffer(v string) error {
	if n, err := strconv.ParseInt(v, 10, 64); err != nil || n < -1 || 0 < n && n < 4096 {
		return errors.New("give 4096 or more, 0 for a size that follows the connection, or -1 for the kernel's choice")
	}
	return nil
}

func checkIDs(v string) error {
	_, err := parseIDs(v)
	return err
}

// parseIDs reads a list of broker ids.
func parseIDs(v string) (ids []int32, err error) {
	for _, item := range topicconfig.SplitList(v) {
		id, err := strconv.ParseInt(item, 10, 32)
		if err != nil || id < 0 {
			return nil, fmt.Errorf("%q is not a broker's id", item)
		}
		ids = append(ids, int32(id))
	}
	return ids, nil
}

// rackAware is the one selector of replicas to read from that there is, by its
// name in Kafka (KIP-392).
const rackAware = "org.apache.kafka.common.replica.RackAwareReplicaSelector"

func checkSelector(v string) error {
	if v != rackAware && v != rackAware[strings.LastIndexByte(rackAware, '.')+1:] {
		return fmt.Errorf("the only class there is is %s; without a value consumers read from leaders", rackAware)
	}
	return nil
}

func checkOverrides(v string) error {
	_, err := parseOverrides(v)
	return err
}

// parseOverrides reads "ADDRESS:N,ADDRESS:N". An IPv6 address may stand in
// brackets.
func parseOverrides(v string) (map[netip.Addr]int, error) {
	out := map[netip.Addr]int{}
	for _, item := range topicconfig.SplitList(v) {
		at := strings.LastIndexByte(item, ':')
		if at < 0 {
			return nil, fmt.Errorf("%q is not ADDRESS:NUMBER", item)
		}
		host := strings.Trim(strings.TrimSpace(item[:at]), "[]")
		addr, err := netip.ParseAddr(host)
		if err != nil {
			return nil, fmt.Errorf("%q is not an IP address; names of hosts are not looked up", host)
		}
		n, err := strconv.ParseInt(strings.TrimSpace(item[at+1:]), 10, 32)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("%q: %q is not a number of connections", item, item[at+1:])
		}
		out[addr.Unmap()] = int(n)
	}
	return out, nil
}

// EditList appends the items of change to a list's value, or takes them out of
// it. As in Kafka, items are what stands between the commas, spaces included:
// what is there is not appended again, and what is there twice is taken out
// once for each time that change has it.
func EditList(value, change string, appendItems bool) string {
	list := slices.DeleteFunc(strings.Split(value, ","), func(item string) bool { return item == "" })
	items := strings.Split(change, ",")
	for change != "" && len(items) > 0 && items[len(items)-1] == "" {
		items = items[:len(items)-1]
	}
	seen := map[string]int{}
	if !appendItems {
		for _, item := range items {
			seen[item]++
		}
		return strings.Join(slices.DeleteFunc(list, func(item string) bool {
			seen[item]--
			return seen[item] >= 0
		}), ",")
	}
	for _, item := range list {
		seen[item]++
	}
	for _, item := range items {
		if seen[item] == 0 {
			seen[item]++
			list = append(list, item)
		}
	}
	return strings.Join(list, ",")
}
