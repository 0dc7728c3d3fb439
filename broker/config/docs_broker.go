package config

import (
	"fmt"
	"strings"

	"github.com/firnlog/firn/broker/brokerconfig"
)

// brokerConfigsText opens the section of what --set takes; ~ stands for a
// backquote.
const brokerConfigsText = `## Broker configs

What Kafka calls broker configs has Kafka's names here, and Firn's own limits have names that begin with
~firn.~. They are given at the start in three places, and for each name the first that has it wins:

1. ~--set num.partitions=6 --set log.retention.hours=72~
2. ~FIRN_SET=num.partitions=6,log.retention.hours=72~; an item that has a comma itself stands in double quotes:
   ~FIRN_SET='"log.cleanup.policy=compact,delete",num.partitions=6'~
3. below ~set:~ in the YAML file, one ~NAME: VALUE~ per line, indented

A name that does not exist stops the start, and the message names the nearest one. So does a broker config of
Kafka's that Firn does not have: nothing would obey it.

Those that are **cluster-wide** can also be changed while the broker runs, and are then kept in its metadata,
whatever the start says. What was set for one broker wins over what was set for all, and both over what was given
at the start:

~~~sh
firn config alter brokers --set log.retention.ms=86400000
kafka-configs.sh --bootstrap-server 127.0.0.1:9092 --alter --entity-type brokers --entity-default --add-config log.retention.ms=86400000
kafka-configs.sh --bootstrap-server 127.0.0.1:9092 --alter --entity-type brokers --entity-name 1 --delete-config log.retention.ms
kafka-configs.sh --bootstrap-server 127.0.0.1:9092 --describe --entity-type brokers --entity-name 1 --all
~~~

**read-only** ones change with a restart. A value that was set while the broker ran, and that a later version of
Firn does not take, is logged at the start and ignored; the others hold. The log level is changed in the same
way: it is the logger ~root~ (~--entity-type broker-loggers --entity-name 1 --alter --add-config root=DEBUG~), until
the next start.

Defaults of topics reach the topics that do not have the topic config themselves, open ones at once. Where they
contradict what a topic itself has (its ~local.retention.ms~ is longer than the new ~log.retention.ms~, say), that
topic is kept as if they had Kafka's defaults, and the log says so.

| config | type | default | Kafka's default, if another | scope | values |
|---|---|---|---|---|---|
`

func writeBrokerConfigs(b *strings.Builder) {
	b.WriteString(strings.ReplaceAll(brokerConfigsText, "~", "`"))
	defs := brokerconfig.Definitions()
	for _, d := range defs {
		def, valid := code(d.Default), d.Valid
		switch {
		case d.Setting != "":
			def, valid = "", "from the setting `"+d.Setting+"`"
		case d.NoDefault:
			def = "null"
		case d.Default == "":
			def = "empty"
		}
		fmt.Fprintf(b, "| `%s` | %v | %s | %s | %v | %s |\n", d.Name, d.Type, def, code(d.Kafka), d.Scope, valid)
	}
	b.WriteString("\n")
	for _, d := range defs {
		fmt.Fprintf(b, "**%s**: %s\n\n", d.Name, d.Doc)
	}
}
